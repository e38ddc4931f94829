#include "ops/cuda/decode_plain.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "ops/cuda/cuda_testing.h"
#include "ops/paged_kv.h"

namespace palu::cuda {
namespace {

using testing::Loaded;
using testing::Poison;
using testing::Stored;
using testing::ToDevice;
using testing::ToHost;
using testing::UnitRoundoff;

constexpr DType kTypes[] = {DType::kF16, DType::kBF16};

struct Case {
  DType dtype;
  int32_t head_dim, heads, kv_heads;
  std::vector<int32_t> lengths = {1, 63, 64, 65, 150, 1000, 5000};
  float magnitude = 1;  // of queries
  bool batch_invariant = false;
};

// Sequences in shuffled blocks, random numbers in the tokens that exist and NaN everywhere else.
class Problem {
 public:
  explicit Problem(const Case& shape)
      : shape_(shape), q_stride_(int64_t{shape.heads} * shape.head_dim + 5) {
    const int64_t d = shape.head_dim, page_bytes = kBlockTokens * d * 2;
    std::vector<PageView> k_pages, v_pages;
    int64_t block_bytes = 32;  // pages are not next to each other
    const auto add_page = [&](std::vector<PageView>& pages) {
      pages.push_back({block_bytes, shape.head_dim, nullptr});
      block_bytes += page_bytes + 48;
    };
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      add_page(v_pages);
      add_page(k_pages);
    }
    for (const int32_t length : shape.lengths) {
      stride_ = std::max(stride_, static_cast<int32_t>(length / kBlockTokens) + 3);
    }
    const int64_t count = std::ssize(shape.lengths), blocks = count * stride_;
    std::vector<int64_t> order(static_cast<size_t>(blocks));
    std::iota(order.begin(), order.end(), int64_t{0});
    std::shuffle(order.begin(), order.end(), std::mt19937(7));
    std::vector<std::byte> memory(static_cast<size_t>(blocks * block_bytes), std::byte{0xFF});
    for (int64_t i = 0; i < count; ++i) {
      const int64_t size = shape.lengths[static_cast<size_t>(i)] * shape.kv_heads * d;
      const auto seed = static_cast<uint32_t>(10 * i);
      const auto k = Stored(testing::RandomFloats(size, seed + 1), shape.dtype);
      const auto v = Stored(testing::RandomFloats(size, seed + 2), shape.dtype);
      const auto place = [&](const std::vector<std::byte>& rows, const PageView& page,
                             int64_t token, int64_t head) {
        const int64_t block = order[static_cast<size_t>(i * stride_ + token / kBlockTokens)];
        std::memcpy(
            memory.data() + block * block_bytes + page.offset + token % kBlockTokens * d * 2,
            rows.data() + (token * shape.kv_heads + head) * d * 2, static_cast<size_t>(d * 2));
      };
      for (int64_t token = 0; token < shape.lengths[static_cast<size_t>(i)]; ++token) {
        for (int64_t head = 0; head < shape.kv_heads; ++head) {
          place(k, k_pages[static_cast<size_t>(head)], token, head);
          place(v, v_pages[static_cast<size_t>(head)], token, head);
        }
      }
      k_.push_back(Loaded(k, shape.dtype));
      v_.push_back(Loaded(v, shape.dtype));
    }
    memory_ = ToDevice(memory);
    std::vector<std::byte*> table;
    for (int64_t i = 0; i < blocks; ++i) {
      const bool exists =
          i % stride_ * kBlockTokens < shape.lengths[static_cast<size_t>(i / stride_)];
      table.push_back(exists ? memory_.data() + order[static_cast<size_t>(i)] * block_bytes
                             : nullptr);
    }
    table_ = ToDevice(table);
    lengths_ = ToDevice(shape.lengths);
    q_ = testing::RandomFloats(count * q_stride_, 5, shape.magnitude);
    q_device_ = ToDevice(q_);
    k_pages_ = ToDevice(k_pages);
    v_pages_ = ToDevice(v_pages);

    layer_.heads = shape.heads;
    layer_.kv_heads = shape.kv_heads;
    layer_.head_dim = shape.head_dim;
    layer_.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    layer_.batch_invariant = shape.batch_invariant;
    layer_.k.dtype = layer_.v.dtype = shape.dtype;
    layer_.k.pages = k_pages_.data();
    layer_.v.pages = v_pages_.data();
    layer_.k.page_count = layer_.v.page_count = shape.kv_heads;
    layer_.k.max_width = layer_.v.max_width = shape.head_dim;
  }

  int64_t count() const { return std::ssize(shape_.lengths); }
  int64_t width() const { return int64_t{shape_.heads} * shape_.head_dim; }
  const AttentionView& layer() const { return layer_; }

  void Launch(int64_t first, int64_t count, void* workspace, DType out_dtype, void* out,
              cudaStream_t stream) const {
    const SequencesView sequences{table_.data() + first * stride_, stride_, lengths_.data() + first,
                                  nullptr, static_cast<int32_t>(count)};
    PlainDecode(layer_, sequences, q_device_.data() + first * q_stride_, q_stride_, workspace,
                out_dtype, out, stream);
  }

  // Sequences [first, first + count) in a workspace for all of them.
  std::vector<float> Run(int64_t first, int64_t count, DType out_dtype = DType::kF32) const {
    constexpr int64_t kGuard = 256;
    const auto bytes = static_cast<int64_t>(
        PlainDecodeWorkspaceBytes(layer_, static_cast<int32_t>(this->count())));
    auto workspace = Poison(bytes + kGuard);
    auto out = Poison(count * width() * static_cast<int64_t>(SizeOf(out_dtype)));
    Launch(first, count, workspace.data(), out_dtype, out.data(), nullptr);
    const std::vector<std::byte> used = ToHost(workspace);
    EXPECT_TRUE(std::all_of(used.end() - kGuard, used.end(), [](std::byte b) {
      return b == std::byte{0xFF};
    })) << "written beyond the workspace";
    return Loaded(ToHost(out), out_dtype);
  }
  std::vector<float> Run() const { return Run(0, count()); }

  // Against loops in float64. Elements are exact; how far the kernel may be off:
  // - Queries and weights are sums of two elements, good to u^2 of themselves (u of the element
  //   type), in F16 to 2^-25 where that is more.
  // - A score adds 2 d products on tensor cores, which may truncate, so (2 d + 8) 2^-23 of the sum
  //   of the magnitudes; 8 covers scaling and the shift by the maximum. As much for the score that
  //   is the maximum.
  // - Exponentials and factors to a new maximum are good to 2^-22: one for the weight, one for the
  //   warps' merge, one for the splits', one per tile of a warp. A warp has at most every fourth
  //   tile of 16 tokens: n/64 of them.
  // - A sum adds 2 n/4 products of a warp, then at most 4 warps and 128 splits.
  // All of it counts for numerator and denominator.
  void Check(int64_t first, const std::vector<float>& found, DType out_dtype = DType::kF32) const {
    const int64_t d = shape_.head_dim;
    const double u = UnitRoundoff(shape_.dtype);
    const double least = shape_.dtype == DType::kF16 ? 0x1p-25 : 0;
    const double limit = shape_.dtype == DType::kF16 ? 65504 : INFINITY;  // of queries
    for (int64_t at = 0; at < std::ssize(found); ++at) {
      ASSERT_FALSE(std::isnan(found[static_cast<size_t>(at)])) << "element " << at;
    }
    for (int64_t i = first; i < first + std::ssize(found) / width(); ++i) {
      const int64_t n = shape_.lengths[static_cast<size_t>(i)];
      const float* keys = k_[static_cast<size_t>(i)].data();
      const float* values = v_[static_cast<size_t>(i)].data();
      for (int64_t head = 0; head < shape_.heads; ++head) {
        const int64_t kv_head = head / (shape_.heads / shape_.kv_heads);
        const float* q = q_.data() + i * q_stride_ + head * d;
        std::vector<double> scores;
        double top = -INFINITY, score_error = 0, total = 0;
        for (int64_t t = 0; t < n; ++t) {
          const float* k = keys + (t * shape_.kv_heads + kv_head) * d;
          double score = 0, absolute = 0, keys_size = 0;
          for (int64_t c = 0; c < d; ++c) {
            const double product = std::clamp<double>(q[c], -limit, limit) * k[c];
            score += product;
            absolute += std::abs(product);
            keys_size += std::abs(double{k[c]});
          }
          scores.push_back(score * layer_.scale);
          top = std::max(top, scores.back());
          const double gamma = u * u + static_cast<double>(2 * d + 8) * 0x1p-23;
          score_error =
              std::max(score_error, (gamma * absolute + least * keys_size) * layer_.scale);
        }
        std::vector<double> sums(static_cast<size_t>(d)), sizes(static_cast<size_t>(d));
        std::vector<double> least_sizes(static_cast<size_t>(d));
        for (int64_t t = 0; t < n; ++t) {
          const double p = std::exp(scores[static_cast<size_t>(t)] - top);
          const float* v = values + (t * shape_.kv_heads + kv_head) * d;
          total += p;
          for (int64_t c = 0; c < d; ++c) {
            sums[static_cast<size_t>(c)] += p * v[c];
            sizes[static_cast<size_t>(c)] += p * std::abs(v[c]);
            least_sizes[static_cast<size_t>(c)] += least * std::abs(v[c]);
          }
        }
        const double tokens = static_cast<double>(n);
        const double relative = 2 * (2 * score_error + u * u + (3 + tokens / 64) * 0x1p-22 +
                                     (tokens / 2 + 132) * 0x1p-23);
        for (int64_t c = 0; c < d; ++c) {
          const double expected = sums[static_cast<size_t>(c)] / total;
          double bound = (std::expm1(relative) * sizes[static_cast<size_t>(c)] +
                          std::exp(relative) * least_sizes[static_cast<size_t>(c)]) /
                         total;
          if (out_dtype != DType::kF32) {
            bound += UnitRoundoff(out_dtype) * (std::abs(expected) + bound) + 0x1p-25;
          }
          const float actual = found[static_cast<size_t>((i - first) * width() + head * d + c)];
          ASSERT_TRUE(std::abs(actual - expected) <= bound)  // false for NaN
              << "sequence " << i << ", head " << head << ", column " << c << ": " << actual
              << " for " << expected << ", bound " << bound;
        }
      }
    }
  }

  void SetLengths(const std::vector<int32_t>& lengths) {
    shape_.lengths = lengths;
    cuda::Check(cudaMemcpy(lengths_.data(), lengths.data(), lengths.size() * sizeof(int32_t),
                           cudaMemcpyDefault),
                "changing lengths");
  }

 private:
  Case shape_;
  int64_t q_stride_;
  int32_t stride_ = 0;
  AttentionView layer_;
  std::vector<float> q_;
  std::vector<std::vector<float>> k_, v_;  // per sequence [tokens, kv_heads*d], as rounded
  DeviceBuffer<std::byte> memory_;
  DeviceBuffer<std::byte*> table_;
  DeviceBuffer<int32_t> lengths_;
  DeviceBuffer<float> q_device_;
  DeviceBuffer<PageView> k_pages_, v_pages_;
};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(CudaPlainDecode, EqualsFloat64) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : kTypes) {
    for (const int32_t d : {64, 128}) {
      for (const int32_t ratio : {1, 2, 3, 4, 7, 8}) {
        SCOPED_TRACE(::testing::Message() << Name(dtype) << ", d " << d << ", ratio " << ratio);
        const Problem problem({dtype, d, 2 * ratio, 2});
        ASSERT_TRUE(SupportsPlainDecode(problem.layer()));
        const std::vector<float> all = problem.Run();
        ASSERT_NO_FATAL_FAILURE(problem.Check(0, all));
        EXPECT_TRUE(SameBits(all, problem.Run())) << "a second run differs";
        ASSERT_NO_FATAL_FAILURE(problem.Check(3, problem.Run(3, 3)));
        ASSERT_NO_FATAL_FAILURE(problem.Check(6, problem.Run(6, 1)));
        ASSERT_NO_FATAL_FAILURE(problem.Check(0, problem.Run(0, 1)));
      }
    }
  }
}

// Many KV heads: few splits, each of several tiles per warp.
TEST(CudaPlainDecode, ManyHeads) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const int32_t d : {64, 128}) {
    for (const int32_t ratio : {1, 4, 8}) {
      SCOPED_TRACE(::testing::Message() << "d " << d << ", ratio " << ratio);
      const Problem problem({DType::kBF16, d, 40 * ratio, 40, {2000, 700, 129, 1, 65}});
      ASSERT_NO_FATAL_FAILURE(problem.Check(0, problem.Run()));
    }
  }
}

// Scores of hundreds: all but a few probabilities vanish, and maxima move far.
TEST(CudaPlainDecode, LargeScores) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : kTypes) {
    for (const int32_t d : {64, 128}) {
      for (const int32_t ratio : {1, 2, 4, 8}) {
        SCOPED_TRACE(::testing::Message() << Name(dtype) << ", d " << d << ", ratio " << ratio);
        const Problem problem({dtype, d, 2 * ratio, 2, {1, 150, 3000}, 100});
        ASSERT_NO_FATAL_FAILURE(problem.Check(0, problem.Run()));
      }
    }
  }
}

// Queries that an element of the cache cannot hold stop at its largest number.
TEST(CudaPlainDecode, LargeQueries) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : kTypes) {
    const Problem problem({dtype, 128, 4, 2, {1, 150}, 3e5F});
    ASSERT_NO_FATAL_FAILURE(problem.Check(0, problem.Run()));
  }
}

TEST(CudaPlainDecode, OutputOfSixteenBits) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : kTypes) {
    for (const int32_t d : {64, 128}) {
      const Problem problem({dtype, d, 4, 2, {150, 65}});
      ASSERT_NO_FATAL_FAILURE(problem.Check(0, problem.Run(0, 2, dtype), dtype));
    }
  }
}

TEST(CudaPlainDecode, BatchInvariant) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : kTypes) {
    for (const int32_t d : {64, 128}) {
      for (const int32_t ratio : {1, 2, 4, 8}) {
        SCOPED_TRACE(::testing::Message() << Name(dtype) << ", d " << d << ", ratio " << ratio);
        Case shape{dtype, d, 2 * ratio, 2};
        shape.batch_invariant = true;
        const Problem problem(shape);
        const std::vector<float> all = problem.Run();
        ASSERT_NO_FATAL_FAILURE(problem.Check(0, all));
        for (int64_t i = 0; i < problem.count(); ++i) {
          const auto row = all.begin() + i * problem.width();
          EXPECT_TRUE(SameBits(problem.Run(i, 1), {row, row + problem.width()}))
              << "sequence " << i;
        }
      }
    }
  }
}

// A captured launch serves other lengths.
TEST(CudaPlainDecode, RunsInAGraph) {
  PALU_SKIP_WITHOUT_DEVICE();
  Problem problem({DType::kBF16, 128, 8, 2, {400, 70, 900}});
  const std::vector<float> before = problem.Run();
  auto workspace = Poison(static_cast<int64_t>(PlainDecodeWorkspaceBytes(problem.layer(), 3)));
  auto out = Poison(problem.count() * problem.width() * 4);
  const Stream stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
  problem.Launch(0, 3, workspace.data(), DType::kF32, out.data(), stream);
  Check(cudaStreamEndCapture(stream, &graph), "capturing");
  Check(cudaGraphInstantiate(&executable, graph, 0), "capturing");
  const auto run = [&] {
    Check(cudaGraphLaunch(executable, stream), "launching");
    return Loaded(ToHost(out), DType::kF32);
  };
  EXPECT_TRUE(SameBits(run(), before));
  problem.SetLengths({1, 64, 650});
  const std::vector<float> shorter = run();
  EXPECT_TRUE(SameBits(shorter, problem.Run()));
  problem.Check(0, shorter);
  Check(cudaGraphExecDestroy(executable), "capturing");
  Check(cudaGraphDestroy(graph), "capturing");
}

TEST(CudaPlainDecode, SaysWhatItSupports) {
  AttentionView layer;
  layer.heads = 32;
  layer.kv_heads = 8;
  layer.head_dim = 128;
  EXPECT_TRUE(SupportsPlainDecode(layer));
  const auto with = [&](const auto& change) {
    AttentionView changed = layer;
    change(changed);
    return SupportsPlainDecode(changed);
  };
  EXPECT_TRUE(with([](AttentionView& l) { l.k.dtype = l.v.dtype = DType::kBF16; }));
  EXPECT_FALSE(with([](AttentionView& l) { l.k.dtype = DType::kBF16; }));
  EXPECT_FALSE(with([](AttentionView& l) { l.k.dtype = l.v.dtype = DType::kF32; }));
  EXPECT_FALSE(with([](AttentionView& l) { l.k.latent = true; }));
  EXPECT_FALSE(with([](AttentionView& l) { l.v.bits = 4; }));
  EXPECT_FALSE(with([](AttentionView& l) { l.head_dim = 80; }));
  EXPECT_FALSE(with([](AttentionView& l) { l.kv_heads = 2; }));
}

}  // namespace
}  // namespace palu::cuda
