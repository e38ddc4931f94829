#include "ops/lane_keys.h"

#include <array>
#include <cassert>
#include <cmath>

#include "ops/cpu/lane_kernels.h"

namespace palu {
namespace {

using cpu::kRowGroup;
using cpu::kTileLanes;

const cpu::LaneKernels& Kernels() {
  const cpu::LaneKernels* best = cpu::BestLaneKernels();
  return best != nullptr ? *best : cpu::PortableLaneKernels();
}

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

void LaneTile::Load(const CodeTile& tile, int64_t tokens) {
  assert(tile.runs == 1 && tokens >= 1 && tokens <= kTileLanes);
  std::array<const void*, kTileLanes> rows;
  for (int64_t t = 0; t < kTileLanes; ++t) {  // past the end the last token, without a scale
    rows[static_cast<size_t>(t)] = tile.codes.data() + std::min(t, tokens - 1) * tile.width;
  }
  codes_.Resize(tile.width * kTileLanes);
  Kernels().transpose(rows.data(), tile.width / 4, codes_.data());
  zeros_.Resize(kTileLanes);
  scales_.Resize(kTileLanes);
  std::fill_n(std::copy_n(tile.zeros.data(), tokens, zeros_.data()), kTileLanes - tokens, 0.0f);
  std::fill_n(std::copy_n(tile.scales.data(), tokens, scales_.data()), kTileLanes - tokens, 0.0f);
}

void LaneRotations::Load(std::span<const float* const> rows, int64_t half, int64_t pairs) {
  std::array<const void*, kTileLanes> from;
  for (AlignedBuffer<float>* to : {&cos, &sin}) {
    for (int64_t t = 0; t < kTileLanes; ++t) {
      from[static_cast<size_t>(t)] =
          rows[static_cast<size_t>(std::min(t, std::ssize(rows) - 1))] + (to == &sin ? half : 0);
    }
    to->Resize(pairs * kTileLanes);
    Kernels().transpose(from.data(), pairs, to->data());
  }
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

bool LaneKeys::Available() { return cpu::BestLaneKernels() != nullptr; }

LaneKeys::LaneKeys(const Int8Up& up, const LaneSplit* split)
    : head_dim_(up.head_dim()), quads_(up.width() / 4), split_(split) {
  const int64_t half = head_dim_ / 2, width = up.width();
  assert(half % 2 == 0 && up.run() >= width);
  rows_.Resize(cpu::PackedRowBytes(head_dim_, quads_));
  for (int64_t f = 0; f < head_dim_; ++f) {
    scales_.push_back(up.scale(f));
    sums_.push_back(up.sum(f));
    int8_t* row = rows_.data() + cpu::PackedRowOffset(f % half * 2 + f / half, quads_);
    for (int64_t r = 0; r < width; ++r) row[r / 4 * 4 * kRowGroup + r % 4] = up.At(f, r);
  }
  if (split_ == nullptr) return;
  const int64_t exact = split_->split.exact_pairs, slow = half - exact;
  assert(exact % 2 == 0);
  slow_quads_ = slow / 2;
  slow_.Resize(RoundUp(width, kTileLanes) * slow_quads_ * 4);
  std::fill_n(slow_.data(), slow_.size(), uint8_t{128});
  for (int64_t i = 0; i < 2 * slow; ++i) {
    const int64_t f = i < slow ? exact + i : half + exact + i - slow;
    for (int64_t r = 0; r < width; ++r) {
      slow_.data()[((r / kTileLanes * slow_quads_ + i / 4) * kTileLanes + r % kTileLanes) * 4 +
                   i % 4] = static_cast<uint8_t>(up.At(f, r) + 128);
    }
  }
}

void LaneKeys::MakeWaves(MatrixView<const float> queries, const float* anchor, LaneScratch& scratch,
                         LaneWaves& waves) const {
  const cpu::LaneKernels& kernels = Kernels();
  const int64_t half = head_dim_ / 2, exact = split_->split.exact_pairs, slow = half - exact;
  const int64_t terms = split_->split.terms, count = queries.rows * terms;  // rows W
  const int64_t padded = RoundUp(quads_ * 4, kTileLanes);
  waves.rows = queries.rows;
  waves.scales.resize(static_cast<size_t>(count));
  waves.sums.resize(static_cast<size_t>(count));
  waves.packed.Resize(cpu::PackedRowBytes(count, quads_));
  scratch.coefficients.Resize(2 * slow);
  scratch.planes.Resize(cpu::PackedRowBytes(2 * count, slow_quads_));
  scratch.w.Resize(RoundUp(2 * count, kRowGroup) / 2 * padded);
  scratch.sums.Resize(kRowGroup * kTileLanes);
  scratch.offsets.assign(static_cast<size_t>(2 * slow), 128);  // U8 + 128 will be multiplied
  std::vector<cpu::PlaneSums> planes(static_cast<size_t>(count + 1));  // one to fill the group
  if (count % kRowGroup != 0) {
    std::fill_n(scratch.planes.data(), scratch.planes.size(), int8_t{0});
    std::fill_n(waves.packed.data(), waves.packed.size(), int8_t{0});
  }
  for (int64_t i = 0; i < count; ++i) {
    const float* query = queries.Row(i / terms);
    kernels.coefficients({.query = query + exact,
                          .query_imaginary = query + half + exact,
                          .cos = anchor + exact,
                          .sin = anchor + half + exact,
                          .re = split_->re.Row(i % terms),
                          .im = split_->im.Row(i % terms),
                          .up_scales = scales_.data() + exact,
                          .up_scales_imaginary = scales_.data() + half + exact,
                          .pairs = slow,
                          .out = scratch.coefficients.data()});
    int8_t* high = scratch.planes.data() + cpu::PackedRowOffset(2 * i, slow_quads_);
    planes[static_cast<size_t>(i)] = kernels.split_planes(
        scratch.coefficients.data(), scratch.offsets.data(), 2 * slow, high, high + 4);
  }
  for (int64_t i = 0; i < count; i += kRowGroup / 2) {
    const int8_t* group = scratch.planes.data() + cpu::PackedRowOffset(2 * i, slow_quads_);
    for (int64_t r = 0; r < padded; r += kTileLanes) {
      kernels.products(slow_.data() + r * slow_quads_ * 4, group, slow_quads_, scratch.sums.data());
      for (int64_t k = 0; k < kRowGroup / 2; ++k) {
        const int32_t* sums = scratch.sums.data() + 2 * k * kTileLanes;
        kernels.join_planes(sums, sums + kTileLanes, planes[static_cast<size_t>(i + k)], false,
                            scratch.w.data() + (i + k) * padded + r);
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    int32_t sum = 0;
    waves.scales[static_cast<size_t>(i)] =
        kernels.round_row(scratch.w.data() + i * padded, quads_ * 4,
                          waves.packed.data() + cpu::PackedRowOffset(i, quads_), &sum);
    waves.sums[static_cast<size_t>(i)] = static_cast<float>(sum);
  }
}

void LaneKeys::Scores(const LaneTile& tile, const LaneRotations& rotations,
                      MatrixView<const float> queries, const LaneWaves* waves, int64_t offset,
                      LaneScratch& scratch, MatrixView<float> scores) const {
  const cpu::LaneKernels& kernels = Kernels();
  const int64_t half = head_dim_ / 2;
  const int64_t pairs = waves != nullptr ? split_->split.exact_pairs : half;
  scratch.sums.Resize(kRowGroup * kTileLanes);
  const int32_t* sums = scratch.sums.data();
  for (int64_t r = 0; r < scores.rows; ++r) std::fill_n(scores.Row(r), kTileLanes, 0.0f);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    if (pair % 2 == 0) {
      kernels.products(tile.codes(), rows_.data() + cpu::PackedRowOffset(2 * pair, quads_), quads_,
                       scratch.sums.data());
    }
    const auto x = static_cast<size_t>(pair), y = static_cast<size_t>(pair + half);
    const int32_t* first = sums + pair % 2 * 2 * kTileLanes;
    kernels.add_pair({.sums = {first, first + kTileLanes},
                      .up_scales = {scales_[x], scales_[y]},
                      .up_sums = {sums_[x], sums_[y]},
                      .zeros = tile.zeros(),
                      .cos = rotations.cos.data() + pair * kTileLanes,
                      .sin = rotations.sin.data() + pair * kTileLanes,
                      .queries = {queries.data + pair, queries.data + half + pair},
                      .query_stride = queries.stride,
                      .rows = queries.rows,
                      .scores = scores.data,
                      .score_stride = scores.stride});
  }
  const int64_t terms = waves != nullptr ? split_->split.terms : 0, count = scores.rows * terms;
  for (int64_t i = 0; i < count; ++i) {
    if (i % kRowGroup == 0) {
      kernels.products(tile.codes(), waves->packed.data() + cpu::PackedRowOffset(i, quads_), quads_,
                       scratch.sums.data());
    }
    kernels.add_wave({.sums = sums + i % kRowGroup * kTileLanes,
                      .scale = waves->scales[static_cast<size_t>(i)],
                      .row_sum = waves->sums[static_cast<size_t>(i)],
                      .zeros = tile.zeros(),
                      .wave = split_->waves.Row(i % terms) + offset,
                      .scores = scores.Row(i / terms)});
  }
  for (int64_t r = 0; r < scores.rows; ++r) {
    for (int64_t t = 0; t < kTileLanes; ++t) scores(r, t) *= tile.scales()[t];
  }
}

}  // namespace palu
