#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "eval/bench/attention_bench.h"
#include "eval/bench/cuda/attention_layer.h"
#include "eval/bench/machine.h"
#include "ops/convert.h"
#include "runtime/cuda/graph.h"
#include "runtime/cuda/rebuilt_attention.h"
#include "runtime/fill_cache.h"

namespace palu::cuda {
namespace {

constexpr int kWarmUps = 3;
constexpr uint64_t kSeed = 1;

// The sequences of a cache as the kernel takes them; every token of theirs is seen.
class SequenceTables {
 public:
  SequenceTables(const std::vector<CachedSequence>& sequences, cudaStream_t stream) {
    const auto count = std::ssize(sequences);
    const int64_t stride = BlocksFor(sequences[0].length());
    std::vector<std::byte*> blocks;
    std::vector<int32_t> ints(static_cast<size_t>(2 * count), 0);  // lengths, first positions
    for (const CachedSequence& sequence : sequences) {
      std::byte* const* table = sequence.table().blocks;
      blocks.insert(blocks.end(), table, table + stride);
    }
    std::fill_n(ints.begin(), count, static_cast<int32_t>(sequences[0].length()));
    blocks_.Resize(std::ssize(blocks));
    blocks_.Upload(blocks.data(), std::ssize(blocks), stream);
    ints_.Resize(2 * count);
    ints_.Upload(ints.data(), 2 * count, stream);
    Check(cudaStreamSynchronize(stream), "running on the device");
    view_ = {blocks_.data(), static_cast<int32_t>(stride), ints_.data(), ints_.data() + count,
             static_cast<int32_t>(count)};
  }

  const SequencesView& view() const { return view_; }

 private:
  DeviceBuffer<std::byte*> blocks_;
  DeviceBuffer<int32_t> ints_;
  SequencesView view_;
};

// A cache of equal sequences on the device.
struct FilledCache {
  KvCache cache;
  std::vector<CachedSequence> sequences;  // destroyed before the cache
  AttentionMemory memory;

  FilledCache(const CacheLayout& layout, int64_t context, int64_t batch, const Exec& exec)
      : cache(layout, 0, exec.device) {
    const int64_t before = AvailableMemoryOf(exec.device);
    for (int64_t b = 0; b < batch; ++b) {
      sequences.push_back(cache.NewSequence());
      FillRandom(layout, sequences.back(), context, kSeed + static_cast<uint64_t>(b), exec.pool);
    }
    memory.blocks = cache.pool().bytes_in_use();
    memory.mapped = cache.pool().bytes_mapped();
    memory.device = before - AvailableMemoryOf(exec.device);
  }
};

// What runs of a device share: a stream, and a buffer whose writing empties the L2 cache.
struct Shared {
  Stream stream;
  DeviceBuffer<char> flush;
  int turn = 0;

  void FlushL2() {
    Check(cudaMemsetAsync(flush.data(), ++turn & 0xFF, static_cast<size_t>(flush.size()), stream),
          "emptying the L2 cache");
  }
};

// Launches recorded once and timed from one event to another.
class TimedGraph {
 public:
  template <class Launch>
  void Prepare(Shared& shared, const Launch& launch) {
    graph_.Capture(shared.stream, launch);
    for (int i = 0; i < kWarmUps; ++i) Time(shared);
  }

  // Microseconds.
  double Time(Shared& shared) {
    shared.FlushL2();  // runs for longer than queueing the rest takes
    start_.Record(shared.stream);
    graph_.Launch(shared.stream);
    end_.Record(shared.stream);
    end_.Wait();
    return static_cast<double>(end_.Since(start_)) * 1e3;
  }

 private:
  Graph graph_;
  Event start_, end_;
};

class Run final : public AttentionRun {
 public:
  Run(const ModelConfig& config, const CacheLayout& layout, int64_t context, int64_t batch,
      const Exec& exec, Shared& shared)
      : shared_(shared),
        layer_(config, layout, exec.pool, shared.stream),
        cache_(layout, context, batch, exec),
        tables_(cache_.sequences, shared.stream),
        q_(batch * config.q_size()),
        out_(batch * config.q_size()),
        workspace_(static_cast<int64_t>(DecodeWorkspaceBytes(
            layer_.view(), static_cast<int32_t>(batch), batch * BlocksFor(context)))) {
    const Stream& stream = shared_.stream;
    std::vector<float> q(static_cast<size_t>(q_.size()));
    Rng(kSeed).FillNormal(q);
    q_.Upload(q.data(), q_.size(), stream);
    const auto launch = [&] {
      DecodeAttention(layer_.view(), tables_.view(), q_.data(), config.q_size(), workspace_.data(),
                      DType::kF16, out_.data(), stream);
    };
    launch();  // as it is, so that kernels are loaded before they are recorded
    stream.Synchronize();
    step_.Prepare(shared_, launch);
  }

  double Time() override { return step_.Time(shared_); }

  AttentionMemory memory() const override {
    AttentionMemory memory = cache_.memory;
    memory.workspace = workspace_.bytes();
    return memory;
  }

 private:
  Shared& shared_;
  AttentionLayer layer_;
  FilledCache cache_;
  SequenceTables tables_;
  DeviceBuffer<float> q_;
  DeviceBuffer<uint16_t> out_;
  DeviceBuffer<char> workspace_;
  TimedGraph step_;
};

// Elements that differ from one another for far longer than a row.
DeviceBuffer<uint16_t> RandomHalves(int64_t size, uint64_t seed, cudaStream_t stream) {
  constexpr int64_t kPeriod = 1000003;
  std::vector<float> numbers(static_cast<size_t>(std::min(size, kPeriod)));
  Rng(seed).FillNormal(numbers);
  std::vector<uint16_t> halves(numbers.size());
  FromFloat(numbers.data(), std::ssize(numbers), DType::kF16,
            reinterpret_cast<std::byte*>(halves.data()));
  DeviceBuffer<uint16_t> buffer(size);
  for (int64_t at = 0; at < size; at += kPeriod) {
    buffer.Upload(halves.data(), std::min(size - at, kPeriod), stream, at);
  }
  Check(cudaStreamSynchronize(stream), "running on the device");
  return buffer;
}

// Prompts of equal length, one after the other, as RebuiltAttention runs one whose keys and values
// are there.
class PrefillRun final : public AttentionRun {
 public:
  PrefillRun(const ModelConfig& config, int64_t tokens, int64_t batch, Shared& shared)
      : shared_(shared),
        q_(RandomHalves(batch * tokens * config.q_size(), kSeed, shared.stream)),
        k_(RandomHalves(batch * tokens * config.num_kv_heads * config.head_dim, kSeed + 1,
                        shared.stream)),
        v_(RandomHalves(k_.size(), kSeed + 2, shared.stream)),
        out_(q_.size()),
        acc_(q_.size() / batch),
        max_(tokens * config.num_heads),
        sum_(max_.size()) {
    AttentionView view;
    view.heads = static_cast<int32_t>(config.num_heads);
    view.kv_heads = static_cast<int32_t>(config.num_kv_heads);
    view.head_dim = static_cast<int32_t>(config.head_dim);
    view.scale = 1 / std::sqrt(static_cast<float>(config.head_dim));
    const SoftmaxStates states{max_.data(), sum_.data()};
    const int64_t width = config.num_kv_heads * config.head_dim;
    const auto launch = [&] {
      for (int64_t b = 0; b < batch; ++b) {
        const int64_t row = b * tokens;
        for (int64_t begin = 0; begin < tokens; begin += RebuiltAttention::kPiece) {
          const DenseKeys keys{k_.data() + (row + begin) * width, v_.data() + (row + begin) * width,
                               begin, std::min(RebuiltAttention::kPiece, tokens - begin),
                               DType::kF16};
          PrefillAttention(view, {0, tokens}, keys, q_.data() + row * config.q_size(), begin == 0,
                           states, acc_.data(), shared_.stream);
        }
        FinishPrefill(view, tokens, states, acc_.data(), DType::kF16,
                      out_.data() + row * config.q_size(), shared_.stream);
      }
    };
    launch();
    shared_.stream.Synchronize();
    step_.Prepare(shared_, launch);
  }

  double Time() override { return step_.Time(shared_); }
  AttentionMemory memory() const override {
    AttentionMemory memory;
    memory.blocks = q_.bytes() + k_.bytes() + v_.bytes() + out_.bytes();
    memory.workspace = acc_.bytes() + max_.bytes() + sum_.bytes();
    return memory;
  }

 private:
  Shared& shared_;
  DeviceBuffer<uint16_t> q_, k_, v_, out_;
  DeviceBuffer<float> acc_, max_, sum_;
  TimedGraph step_;
};

class CudaAttentionDevice final : public AttentionDevice {
 public:
  explicit CudaAttentionDevice(const Exec& exec) : exec_(exec) {
    int l2 = 0;
    Check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, exec.device.index),
          "asking for the L2 cache");
    l2_bytes_ = l2;
    shared_.flush.Resize(2 * l2_bytes_);
  }

  int64_t l2_bytes() const override { return l2_bytes_; }
  int64_t AvailableMemory() const override { return AvailableMemoryOf(exec_.device); }
  bool Supports(const ModelConfig& one_layer, const CacheLayout& layout) override {
    return SupportsDecode(AttentionLayer(one_layer, layout, exec_.pool, shared_.stream).view());
  }
  std::unique_ptr<AttentionRun> Prepare(const ModelConfig& one_layer, const CacheLayout& layout,
                                        int64_t context, int64_t batch) override {
    return std::make_unique<Run>(one_layer, layout, context, batch, exec_, shared_);
  }
  std::unique_ptr<AttentionRun> PreparePrefill(const ModelConfig& one_layer, int64_t tokens,
                                               int64_t batch) override {
    return std::make_unique<PrefillRun>(one_layer, tokens, batch, shared_);
  }

 private:
  Exec exec_;
  Shared shared_;
  int64_t l2_bytes_ = 0;
};

}  // namespace

std::unique_ptr<AttentionDevice> MakeAttentionDeviceOf(const Exec& exec) {
  const std::vector<CudaDeviceInfo> devices = CudaDevices();
  Require(exec.device.index >= 0 && exec.device.index < std::ssize(devices),
          "device: no cuda:{} among the {} CUDA devices of this machine", exec.device.index,
          devices.size());
  Check(cudaSetDevice(exec.device.index), "choosing the device");
  return std::make_unique<CudaAttentionDevice>(exec);
}

}  // namespace palu::cuda
