// From a compressed directory back to an ordinary checkpoint that any program can load.
#pragma once

#include <filesystem>
#include <optional>

#include "base/thread_pool.h"
#include "tensor/dtype.h"

namespace palu {

// Reads a compressed directory, this project's or the published Palu code's, and fills `directory`
// (which exists and is empty; see StagedDirectory) with the dense model it stands for: the rows of
// group i of W are U_i A_i, multiplied in float64 and rounded once to the dtype of VT, or to
// `dtype`. Other tensors are copied; with `dtype` those of floating point are converted. Biases
// that the published code keeps per group are joined. Throws Error as the readers do, and when the
// directory is not compressed.
void ExportDense(const std::filesystem::path& compressed, const std::filesystem::path& directory,
                 std::optional<DType> dtype, ThreadPool& pool);

}  // namespace palu
