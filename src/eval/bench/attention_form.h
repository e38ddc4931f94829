// One way to store a layer's keys and values, for timing attention alone.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/cache_layout.h"

namespace palu {

struct AttentionForm {
  std::string name;     // as it was asked for
  bool latent = false;  // else keys and values in fp16
  bool rotary = false;  // keys in the rotary basis (compress/rotary_basis.h)
  int bits = 16;        // of a latent
  double k = 1, v = 1;  // latents over the width of a group
};

// "dense,16@50,r4@25/75": plain fp16; fp16 latents at 50 %; latents of 4 bits, 25 % of the keys'
// width and 75 % of the values', keys in the rotary basis. dense comes first in the result, asked
// for or not. Throws Error.
std::vector<AttentionForm> ParseForms(std::string_view text);

// The first layer of `model` with uniform ranks for the form, groups of group_size KV heads.
ModelConfig OneLayer(const ModelConfig& model, const AttentionForm& form, int64_t group_size);
// Its cache, elements in fp16.
CacheLayout LayoutOf(const ModelConfig& one_layer, const AttentionForm& form);

}  // namespace palu
