// Kernels shared by several ops, dispatched to the CPU's vector width.
#pragma once

#include "ops/vector.h"
#include "tensor/tensor.h"

namespace palu::cpu {

enum class Write { kReplace, kAdd };

// y[i][j] (+)= <x_i, row_j>: x [m, k], rows [n, k], y [m, n]. Reads the stored rows once when m is
// small; with many rows of x the caller blocks them (each pass over the rows costs a conversion).
void DotRows(MatrixView<const float> x, const StoredRows& rows, MatrixView<float> y, Write write);

}  // namespace palu::cpu
