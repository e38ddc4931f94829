// Token embeddings: rows of the table, as float.
#pragma once

#include <span>

#include "tensor/tensor.h"

namespace palu {

// out[i] = table[ids[i]]: table [vocab, d] of any dtype, out [ids, d]. Throws Error when an id lies
// outside the table.
void GatherRows(const TensorView& table, std::span<const int32_t> ids, MatrixView<float> out);

}  // namespace palu
