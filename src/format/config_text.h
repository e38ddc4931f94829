// Rewriting the text of a config.json: a compressed directory keeps every key of its source, a
// dense export drops only what compression added.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/config.h"
#include "tensor/dtype.h"

namespace palu {

// `text` with the section `kv_compression` that describes `compression` (docs/format.md).
// Throws Error naming `where` when the text is no JSON object or has such a section already.
std::string WithCompression(std::string_view text, std::string_view where,
                            const KvCompression& compression);

// `text` of a compressed directory, ours or published, as its dense model has it: no
// kv_compression, head_wise_ranks or original_model_name_or_path; model_type and architectures of
// `family`; the dtype key set when `dtype` is given.
std::string WithoutCompression(std::string_view text, std::string_view where, Family family,
                               std::optional<DType> dtype);

}  // namespace palu
