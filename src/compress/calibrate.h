// One pass over the calibration text: Gram matrices of the projections' inputs, Fisher information
// of the key and value projections (method.md section 1).
#pragma once

#include <functional>

#include "compress/stats.h"
#include "tensor/exec.h"

namespace palu {

// What Calibrate will do, from the token ids of the whole text: windows [0, windows) of `seqlen`
// consecutive ids each, the first `fisher_windows` of them differentiated. Throws Error when the
// ids do not fill the windows or a count is out of range. two_sided: with what --budget needs, for
// which there must be a differentiated window, for caches with a window of `recent` tokens.
CalibrationSource PlanCalibration(const Model& model, std::span<const TokenId> ids, int64_t windows,
                                  int64_t seqlen, int64_t fisher_windows, bool two_sided = false,
                                  int64_t recent = 0);

// What CalibrationStats::means, ::output_grads and ::far_squares of a layer are made from: sums
// over all windows, and over the differentiated ones of g g^T (lower triangle) and of far
// gradients.
struct TwoSidedSums {
  TwoSidedSums(int64_t hidden, int64_t rows);

  std::vector<double> inputs;  // [hidden]
  Matrix<double> moment;       // [rows, rows]
  std::vector<double> far;     // squares, [rows]
};
void AddTwoSided(const CalibrationSource& source, TwoSidedSums sums, CalibrationStats& stats);

// Mean over each head's entries of sqrt(sum / windows), [heads]. sum [n_kv*d, hidden]: over the
// windows, of one projection's squared gradients.
std::vector<double> FisherByHead(MatrixView<const double> sum, int64_t heads, int64_t windows);

// `ids` and `source` as given to and by PlanCalibration. Gram matrices are summed in float64;
// Fisher is the root of the mean over windows of the squared gradient, averaged over a head's rows.
// on_window is called as often as there are windows while the work goes on: after each one on the
// CPU; on a device, where all windows pass a layer together, for each such share of the work. A
// pending cancellation is thrown between layers. Results of a device differ by the order of sums.
CalibrationStats Calibrate(const Model& model, std::span<const TokenId> ids,
                           const CalibrationSource& source, const Exec& exec,
                           const std::function<void()>& on_window = {});

}  // namespace palu
