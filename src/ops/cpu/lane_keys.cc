#include "ops/lane_keys.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

#include "ops/convert.h"
#include "ops/cpu/lane_kernels.h"
#include "ops/vector.h"

namespace palu {
namespace {

using cpu::kRowGroup;
using cpu::kTileLanes;

const cpu::LaneKernels& Kernels() {
  const cpu::LaneKernels* best = cpu::BestLaneKernels();
  return best != nullptr ? *best : cpu::PortableLaneKernels();
}

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Row f of a head where pairs lie side by side.
int64_t PairRow(int64_t f, int64_t half) { return f % half * 2 + f / half; }

}  // namespace

void LaneTile::Load(const LatentQuantization& quantization, const PackedRows& rows,
                    int64_t tokens) {
  assert(quantization.runs(rows.width) == 1 && tokens >= 1 && tokens <= kTileLanes);
  quads_ = rows.width / 4;
  codes_.Resize(rows.width * kTileLanes);
  cpu::LaneCodes codes{rows.codes, quantization.code_bytes(rows.width), rows.width,
                       quantization.bits};
  if (!cpu::HasWholeQuads(codes.bits, codes.width)) {
    unpacked_.Resize(rows.width * kTileLanes);
    UnpackCodes(quantization, rows, kTileLanes, unpacked_.data());
    codes = {unpacked_.data(), rows.width, rows.width, 8};
  }
  Kernels().load_codes(codes, codes_.data());
  zeros_.Resize(kTileLanes);
  scales_.Resize(kTileLanes);
  LoadScales(quantization, rows, tokens, scales_.data(), zeros_.data());
  std::fill_n(scales_.data() + tokens, kTileLanes - tokens, 0.0f);
  std::fill_n(zeros_.data() + tokens, kTileLanes - tokens, 0.0f);
}

void LaneRotations::Load(const PositionTable& positions, int64_t first, int64_t tokens,
                         int64_t pairs) {
  static_assert(PositionTable::kRun == kTileLanes);
  const int64_t half = positions.half();
  cos = positions.ByPairs(first);
  if (cos != nullptr) {
    sin = cos + half * kTileLanes;
    return;
  }
  own_.Resize(2 * pairs * kTileLanes);
  std::array<const void*, kTileLanes> rows;
  for (const int64_t part : {0, 1}) {
    for (int64_t t = 0; t < kTileLanes; ++t) {
      rows[static_cast<size_t>(t)] = positions.Cos(first + std::min(t, tokens - 1)) + part * half;
    }
    Kernels().transpose(rows.data(), pairs, own_.data() + part * pairs * kTileLanes);
  }
  cos = own_.data();
  sin = cos + pairs * kTileLanes;
}

LaneSplit::LaneSplit(FrequencySplit chosen, std::span<const double> frequencies)
    : split(std::move(chosen)),
      waves(split.terms, split.block_tokens),
      re(split.terms, split.slow_pairs()),
      im(split.terms, split.slow_pairs()) {
  std::copy_n(split.basis.data(), waves.size(), waves.data());
  for (int64_t j = 0; j < split.terms; ++j) {
    for (int64_t f = 0; f < split.slow_pairs(); ++f) {
      // c_jf is counted from the middle of the run; theta_f T / 2 lies between it and the start.
      const double frequency = frequencies[static_cast<size_t>(split.exact_pairs + f)];
      const std::complex<double> c =
          split.Coefficients(j)[f] *
          std::polar(1.0, frequency * 0.5 * static_cast<double>(split.block_tokens));
      re(j, f) = static_cast<float>(c.real());
      im(j, f) = static_cast<float>(c.imag());
    }
  }
}

SplitCost LaneSplitCost(int64_t queries) {
  return {.queries = queries, .row_multiple = kRowGroup, .making = 2};
}

SplitCost TierSplitCost(int64_t queries) {
  return {.queries = queries, .row_multiple = kRowGroup, .making = 4};
}

bool LaneKeys::Available() { return cpu::BestLaneKernels() != nullptr; }

LaneKeys::LaneKeys(const Int8Up& up, std::span<const float> bias, const LaneSplit* split)
    : LaneKeys(up.head_dim(), bias, split) {
  const int64_t half = head_dim_ / 2, width = up.width(), quads = width / 4;
  assert(up.run() >= width);
  Part& part = parts_.emplace_back(0, quads, head_dim_);
  for (int64_t f = 0; f < head_dim_; ++f) {
    const int64_t at = PairRow(f, half);
    part.scales.data()[at] = up.scale(f);
    part.sums.data()[at] = up.sum(f);
    int8_t* row = part.rows.data() + cpu::PackedRowOffset(at, quads);
    for (int64_t r = 0; r < width; ++r) row[r / 4 * 4 * kRowGroup + r % 4] = up.At(f, r);
  }
  part.FindSpans();
  if (split_ == nullptr) return;
  const int64_t slow = split_->split.slow_pairs();
  slow_quads_ = slow / 2;
  slow_.Resize(RoundUp(width, kTileLanes) * slow_quads_ * 4);
  std::fill_n(slow_.data(), slow_.size(), uint8_t{128});
  for (int64_t i = 0; i < 2 * slow; ++i) {
    const int64_t f = SlowRow(i);
    slow_scales_.push_back(up.scale(f));
    for (int64_t r = 0; r < width; ++r) {
      slow_.data()[((r / kTileLanes * slow_quads_ + i / 4) * kTileLanes + r % kTileLanes) * 4 +
                   i % 4] = static_cast<uint8_t>(up.At(f, r) + 128);
    }
  }
}

LaneKeys::LaneKeys(const TensorView& up, std::span<const PageTier> tiers,
                   std::span<const float> bias, const LaneSplit* split)
    : LaneKeys(up.rows(), bias, split) {
  const int64_t half = head_dim_ / 2;
  tiered_ = true;
  Matrix<float> rows(up.rows(), up.cols());
  ToFloat(up, rows.data());
  for (size_t t = 0; t < tiers.size(); ++t) {
    const PageTier& tier = tiers[t];
    const std::vector<int32_t> ones(static_cast<size_t>(tier.width), 1);
    const int64_t quads = tier.width / 4;
    const size_t first = parts_.size();
    parts_.emplace_back(static_cast<int64_t>(t), quads, head_dim_);
    const bool planes = !Int8Up::Supports(tier.quantization);
    if (planes) parts_.emplace_back(static_cast<int64_t>(t), quads, head_dim_).paired = true;
    for (int64_t f = 0; f < head_dim_; ++f) {
      const int64_t at = PairRow(f, half), offset = cpu::PackedRowOffset(at, quads);
      const float* row = rows.Row(f) + tier.column;
      Part& part = parts_[first];
      if (!planes) {
        int32_t sum = 0;
        part.scales.data()[at] =
            Kernels().round_row(row, tier.width, part.rows.data() + offset, &sum);
        part.sums.data()[at] = static_cast<float>(sum);
        continue;
      }
      Part& low = parts_[first + 1];
      const cpu::PlaneSums sums = Kernels().split_planes(
          row, ones.data(), tier.width, part.rows.data() + offset, low.rows.data() + offset);
      part.scales.data()[at] = 256 * sums.scale;
      part.sums.data()[at] = sums.high;
      low.scales.data()[at] = sums.scale;
      low.sums.data()[at] = sums.low;
    }
  }
  for (Part& part : parts_) part.FindSpans();
  const int64_t slow = split_ != nullptr ? split_->split.slow_pairs() : 0;
  if (slow == 0) return;
  const auto row_bytes = up.cols() * static_cast<int64_t>(SizeOf(up.dtype));
  up_ = OwnedTensor(up.dtype, {2 * slow, up.cols()});
  for (int64_t i = 0; i < 2 * slow; ++i) {
    std::copy_n(static_cast<const std::byte*>(up.data) + SlowRow(i) * row_bytes, row_bytes,
                up_.data() + i * row_bytes);
  }
}

LaneKeys::Part::Part(int64_t which, int64_t width_quads, int64_t count)
    : tile(which),
      quads(width_quads),
      rows(cpu::PackedRowBytes(count, quads)),
      scales(count),
      sums(count) {}

void LaneKeys::Part::FindSpans() {
  constexpr int64_t kQuadBytes = 4 * kRowGroup;
  for (int64_t group = 0; group < scales.size() / kRowGroup; ++group) {
    const int8_t* row = rows.data() + group * quads * kQuadBytes;
    const auto used = [&](int64_t quad) {
      return std::any_of(row + quad * kQuadBytes, row + (quad + 1) * kQuadBytes,
                         [](int8_t entry) { return entry != 0; });
    };
    int64_t begin = 0, end = quads;
    while (begin < end && !used(begin)) ++begin;
    while (begin < end && !used(end - 1)) --end;
    spans.push_back({begin, end - begin});
  }
}

LaneKeys::LaneKeys(int64_t head_dim, std::span<const float> bias, const LaneSplit* split)
    : head_dim_(head_dim), split_(split) {
  const int64_t half = head_dim_ / 2;
  assert(half % 2 == 0 && (split == nullptr || split->split.exact_pairs % 2 == 0));
  zero_bias_.assign(static_cast<size_t>(head_dim_), 0.0f);
  ones_.assign(static_cast<size_t>(head_dim_), 1.0f);
  if (bias.empty()) return;
  bias_.resize(static_cast<size_t>(head_dim_));
  for (int64_t f = 0; f < head_dim_; ++f) {
    bias_[static_cast<size_t>(PairRow(f, half))] = bias[static_cast<size_t>(f)];
  }
  const int64_t slow = split_ != nullptr ? split_->split.slow_pairs() : 0;
  for (int64_t i = 0; i < 2 * slow; ++i) {
    slow_bias_.push_back(bias[static_cast<size_t>(SlowRow(i))]);
  }
}

int64_t LaneKeys::SlowRow(int64_t i) const {
  const int64_t exact = split_->split.exact_pairs, slow = head_dim_ / 2 - exact;
  return i < slow ? exact + i : head_dim_ / 2 + exact + i - slow;
}

void LaneKeys::Coefficients(const float* query, const float* anchor, int64_t term,
                            const float* scales, float* out) const {
  const int64_t half = head_dim_ / 2, exact = split_->split.exact_pairs, slow = half - exact;
  Kernels().coefficients({.query = query + exact,
                          .query_imaginary = query + half + exact,
                          .cos = anchor + exact,
                          .sin = anchor + half + exact,
                          .re = split_->re.Row(term),
                          .im = split_->im.Row(term),
                          .up_scales = scales,
                          .up_scales_imaginary = scales + slow,
                          .pairs = slow,
                          .out = out});
}

void LaneKeys::MakeRows(MatrixView<const float> queries, const float* anchor,
                        LaneScratch& scratch) const {
  const cpu::LaneKernels& kernels = Kernels();
  const int64_t terms = split_->split.terms, count = queries.rows * terms;  // rows W
  const int64_t padded = RoundUp(parts_[0].quads * 4, kTileLanes), entries = 4 * slow_quads_;
  scratch.coefficients.Resize(1, entries);
  scratch.planes.Resize(cpu::PackedRowBytes(2 * count, slow_quads_));
  scratch.rows.Resize(RoundUp(2 * count, kRowGroup) / 2, padded);
  scratch.sums.Resize(kRowGroup * kTileLanes);
  scratch.offsets.assign(static_cast<size_t>(entries), 128);  // U8 + 128 will be multiplied
  std::vector<cpu::PlaneSums> planes(static_cast<size_t>(count + 1));  // one to fill the group
  if (count % 2 != 0) std::fill_n(scratch.planes.data(), scratch.planes.size(), int8_t{0});
  for (int64_t i = 0; i < count; ++i) {
    Coefficients(queries.Row(i / terms), anchor, i % terms, slow_scales_.data(),
                 scratch.coefficients.data());
    int8_t* high = scratch.planes.data() + cpu::PackedRowOffset(2 * i, slow_quads_);
    planes[static_cast<size_t>(i)] = kernels.split_planes(
        scratch.coefficients.data(), scratch.offsets.data(), entries, high, high + 4);
  }
  for (int64_t i = 0; i < count; i += kRowGroup / 2) {
    const int8_t* group = scratch.planes.data() + cpu::PackedRowOffset(2 * i, slow_quads_);
    for (int64_t r = 0; r < padded; r += kTileLanes) {
      kernels.products(slow_.data() + r * slow_quads_ * 4, group, slow_quads_, scratch.sums.data());
      for (int64_t k = 0; k < kRowGroup / 2; ++k) {
        const int32_t* sums = scratch.sums.data() + 2 * k * kTileLanes;
        kernels.join_planes(sums, sums + kTileLanes, planes[static_cast<size_t>(i + k)],
                            scratch.rows.Row(i + k) + r);
      }
    }
  }
}

void LaneKeys::MakeFloatRows(MatrixView<const float> queries, const float* anchor,
                             LaneScratch& scratch) const {
  const TensorView up = up_.View();
  const int64_t terms = split_->split.terms, count = queries.rows * terms;
  scratch.coefficients.Resize(count, up.rows());
  for (int64_t i = 0; i < count; ++i) {
    Coefficients(queries.Row(i / terms), anchor, i % terms, ones_.data(),
                 scratch.coefficients.Row(i));
  }
  scratch.rows.Resize(count, up.cols());
  scratch.rows.Fill(0);
  AccumulateRows(scratch.coefficients, {up.data, up.dtype, up.cols()}, scratch.rows);
}

// What W_j h lacks of the keys' bias: its coefficients times the slow pairs of the bias.
void LaneKeys::MakeBias(MatrixView<const float> queries, const float* anchor, LaneScratch& scratch,
                        LaneWaves& waves) const {
  const int64_t terms = split_->split.terms, entries = std::ssize(slow_bias_);
  waves.bias.assign(static_cast<size_t>(RoundUp(queries.rows * terms, kRowGroup)), 0.0f);
  if (slow_bias_.empty()) return;
  scratch.coefficients.Resize(1, entries);
  for (int64_t i = 0; i < queries.rows * terms; ++i) {
    Coefficients(queries.Row(i / terms), anchor, i % terms, ones_.data(),
                 scratch.coefficients.data());
    waves.bias[static_cast<size_t>(i)] =
        Dot(scratch.coefficients.data(), slow_bias_.data(), entries);
  }
}

void LaneKeys::RoundWave(const float* w, int64_t row, size_t p, LaneScratch& scratch,
                         LaneWaves& waves) const {
  const cpu::LaneKernels& kernels = Kernels();
  const int64_t quads = parts_[p].quads, offset = cpu::PackedRowOffset(row, quads);
  const auto i = static_cast<size_t>(row);
  LaneWaves::Part& part = waves.parts[p];
  if (p + 1 == parts_.size() || !parts_[p + 1].paired) {
    int32_t sum = 0;
    part.scales[i] = kernels.round_row(w, 4 * quads, part.packed.data() + offset, &sum);
    part.sums[i] = static_cast<float>(sum);
    return;
  }
  LaneWaves::Part& low = waves.parts[p + 1];
  scratch.offsets.assign(static_cast<size_t>(4 * quads), 1);
  const cpu::PlaneSums planes =
      kernels.split_planes(w, scratch.offsets.data(), 4 * quads, part.packed.data() + offset,
                           low.packed.data() + offset);
  part.scales[i] = 256 * planes.scale;
  part.sums[i] = planes.high;
  low.scales[i] = planes.scale;
  low.sums[i] = planes.low;
}

void LaneKeys::MakeWaves(MatrixView<const float> queries, const float* anchor, LaneScratch& scratch,
                         LaneWaves& waves) const {
  const int64_t count = queries.rows * split_->split.terms;
  MakeBias(queries, anchor, scratch, waves);
  if (tiered_) {
    MakeFloatRows(queries, anchor, scratch);
  } else {
    MakeRows(queries, anchor, scratch);
  }
  waves.parts.resize(parts_.size());
  int64_t column = 0;
  for (size_t p = 0; p < parts_.size(); ++p) {
    LaneWaves::Part& part = waves.parts[p];
    part.packed.Resize(cpu::PackedRowBytes(count, parts_[p].quads));
    if (count % kRowGroup != 0) std::fill_n(part.packed.data(), part.packed.size(), int8_t{0});
    part.scales.assign(static_cast<size_t>(RoundUp(count, kRowGroup)), 0.0f);
    part.sums.assign(part.scales.size(), 0.0f);
  }
  for (size_t p = 0; p < parts_.size(); ++p) {
    if (parts_[p].paired) continue;
    for (int64_t i = 0; i < count; ++i) {
      RoundWave(scratch.rows.Row(i) + column, i, p, scratch, waves);
    }
    column += 4 * parts_[p].quads;
  }
}

void LaneKeys::Scores(std::span<const LaneTile> tiles, const LaneRotations& rotations,
                      MatrixView<const float> queries, const LaneWaves* waves, int64_t offset,
                      LaneScratch& scratch, MatrixView<float> scores) const {
  const cpu::LaneKernels& kernels = Kernels();
  const int64_t half = head_dim_ / 2;
  const int64_t pairs = waves != nullptr ? split_->split.exact_pairs : half;
  const bool scales_last = ScalesLast();
  scratch.keys.Resize(kRowGroup * kTileLanes);
  float* keys = scratch.keys.data();
  // Four rows of every part, added up.
  const auto add_rows = [&](size_t p, Part::Span span, const int8_t* rows, const float* up_scales,
                            const float* up_sums, const float* start) {
    const LaneTile& tile = tiles[static_cast<size_t>(parts_[p].tile)];
    kernels.add_rows({.codes = tile.codes() + span.begin * 4 * kTileLanes,
                      .quads = span.count,
                      .rows = rows + span.begin * 4 * kRowGroup,
                      .up_scales = up_scales,
                      .up_sums = up_sums,
                      .zeros = tile.zeros(),
                      .scales = scales_last ? nullptr : tile.scales(),
                      .start = p == 0 ? start : nullptr,
                      .out = keys});
  };
  const float* bias = bias_.empty() ? zero_bias_.data() : bias_.data();
  for (int64_t pair = 0; pair < pairs; pair += 2) {
    for (size_t p = 0; p < parts_.size(); ++p) {
      const Part& part = parts_[p];
      add_rows(p, part.spans[static_cast<size_t>(pair / 2)],
               part.rows.data() + cpu::PackedRowOffset(2 * pair, part.quads),
               part.scales.data() + 2 * pair, part.sums.data() + 2 * pair, bias + 2 * pair);
    }
    kernels.add_pairs({.keys = keys,
                       .cos = rotations.cos + pair * kTileLanes,
                       .sin = rotations.sin + pair * kTileLanes,
                       .queries = {queries.data + pair, queries.data + half + pair},
                       .query_stride = queries.stride,
                       .rows = queries.rows,
                       .scores = scores.data,
                       .score_stride = scores.stride,
                       .add = pair > 0});
  }
  if (pairs == 0) {
    for (int64_t r = 0; r < scores.rows; ++r) std::fill_n(scores.Row(r), kTileLanes, 0.0f);
  }
  const int64_t terms = waves != nullptr ? split_->split.terms : 0, count = scores.rows * terms;
  for (int64_t i = 0; i < count; i += kRowGroup) {
    for (size_t p = 0; p < parts_.size(); ++p) {
      const LaneWaves::Part& part = waves->parts[p];
      add_rows(p, {0, parts_[p].quads},
               part.packed.data() + cpu::PackedRowOffset(i, parts_[p].quads),
               part.scales.data() + i, part.sums.data() + i, waves->bias.data() + i);
    }
    kernels.add_waves({.keys = keys,
                       .first = i,
                       .count = std::min(kRowGroup, count - i),
                       .terms = terms,
                       .waves = split_->waves.data() + offset,
                       .wave_stride = split_->waves.cols(),
                       .scores = scores.data,
                       .score_stride = scores.stride,
                       .scales = scales_last ? tiles[0].scales() : nullptr});
  }
  for (int64_t r = 0; r < scores.rows && scales_last && terms == 0; ++r) {
    kernels.scale_lanes(tiles[0].scales(), scores.Row(r));
  }
}

}  // namespace palu
