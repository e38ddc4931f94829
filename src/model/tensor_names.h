// The tensor names of the Hugging Face checkpoints this project reads and writes, in one place.
// A module is a name without its last part: KProj(3) is "model.layers.3.self_attn.k_proj", its
// weight is Weight(KProj(3)). A factored projection has VT and U in place of the weight.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace palu::names {

inline constexpr std::string_view kEmbedding = "model.embed_tokens.weight";  // [vocab, hidden]
inline constexpr std::string_view kFinalNorm = "model.norm.weight";          // [hidden]
inline constexpr std::string_view kHead = "lm_head.weight";  // [vocab, hidden]; absent when tied

inline std::string InLayer(int64_t layer, std::string_view rest) {
  return fmt::format("model.layers.{}.{}", layer, rest);
}

inline std::string QProj(int64_t layer) { return InLayer(layer, "self_attn.q_proj"); }
inline std::string KProj(int64_t layer) { return InLayer(layer, "self_attn.k_proj"); }
inline std::string VProj(int64_t layer) { return InLayer(layer, "self_attn.v_proj"); }
inline std::string OProj(int64_t layer) { return InLayer(layer, "self_attn.o_proj"); }
inline std::string QNorm(int64_t layer) { return InLayer(layer, "self_attn.q_norm"); }
inline std::string KNorm(int64_t layer) { return InLayer(layer, "self_attn.k_norm"); }
inline std::string GateProj(int64_t layer) { return InLayer(layer, "mlp.gate_proj"); }
inline std::string UpProj(int64_t layer) { return InLayer(layer, "mlp.up_proj"); }
inline std::string DownProj(int64_t layer) { return InLayer(layer, "mlp.down_proj"); }
inline std::string InputNorm(int64_t layer) { return InLayer(layer, "input_layernorm"); }
inline std::string PostAttentionNorm(int64_t layer) {
  return InLayer(layer, "post_attention_layernorm");
}

inline std::string Weight(std::string_view module) { return fmt::format("{}.weight", module); }
inline std::string Bias(std::string_view module) { return fmt::format("{}.bias", module); }

// Down-projections A of all groups, one below the other: [sum of ranks, hidden].
inline std::string VT(std::string_view module) { return fmt::format("{}.VT.weight", module); }
// Bias of the latents, when their mean is kept apart: [sum of ranks].
inline std::string VTBias(std::string_view module) { return fmt::format("{}.VT.bias", module); }
// Up-projection of one group: [group_size * head_dim, rank].
inline std::string U(std::string_view module, int64_t group) {
  return fmt::format("{}.U.{}.weight", module, group);
}
// The published Palu code keeps a projection's bias here, in parts: [group_size * head_dim].
inline std::string UBias(std::string_view module, int64_t group) {
  return fmt::format("{}.U.{}.bias", module, group);
}

}  // namespace palu::names
