// One pass over the calibration text: Gram matrices of the projections' inputs, Fisher information
// of the key and value projections (method.md section 1).
#pragma once

#include <functional>

#include "compress/stats.h"
#include "tensor/exec.h"

namespace palu {

// What Calibrate will do, from the token ids of the whole text: windows [0, windows) of `seqlen`
// consecutive ids each, the first `fisher_windows` of them differentiated. Throws Error when the
// ids do not fill the windows or a count is out of range.
CalibrationSource PlanCalibration(const Model& model, std::span<const TokenId> ids, int64_t windows,
                                  int64_t seqlen, int64_t fisher_windows);

// `ids` and `source` as given to and by PlanCalibration. Gram matrices are summed in float64;
// Fisher is the root of the mean over windows of the squared gradient, averaged over a head's rows.
// on_window is called after each window; a pending cancellation is thrown between layers.
CalibrationStats Calibrate(const Model& model, std::span<const TokenId> ids,
                           const CalibrationSource& source, const Exec& exec,
                           const std::function<void()>& on_window = {});

}  // namespace palu
