#include "runtime/fill_cache.h"

#include <algorithm>
#include <vector>

#include "base/cancel.h"
#include "base/rng.h"
#include "ops/convert.h"

namespace palu {
namespace {

// Rows [begin, end) of every page, which lie in one block.
void FillRows(const CachedPages& pages, const BlockTable& table, int64_t begin, int64_t end,
              Rng& rng, std::vector<float>& rows) {
  for (const CachedPages::Page& page : pages.pages) {
    rows.resize(static_cast<size_t>((end - begin) * page.width));
    rng.FillUniform(rows, -0.5f, 0.5f);
    if (!pages.quantized()) {
      FromFloat(rows.data(), std::ssize(rows), pages.dtype, table.Row(pages, page, begin));
      continue;
    }
    for (int64_t t = begin; t < end; ++t) {
      pages.ForTiers(page, [&](const PageTier& tier) {
        QuantizeRow(tier.quantization, rows.data() + (t - begin) * page.width + tier.column,
                    table.Packed(tier, t));
      });
    }
  }
}

// The window's rows of the last tokens of [begin, end).
void FillWindow(const CacheLayout& layout, const CachedPages& pages, CachedSequence& sequence,
                int64_t begin, int64_t end, Rng& rng) {
  std::vector<float> row;
  for (int64_t t = std::max(begin, end - layout.recent()); t < end; ++t) {
    for (const CachedPages::Page& page : pages.pages) {
      row.resize(static_cast<size_t>(page.width));
      rng.FillUniform(row, -0.5f, 0.5f);
      FromFloat(row.data(), page.width, DType::kF16, sequence.RecentRow(page, t));
    }
  }
}

}  // namespace

void FillRandom(const CacheLayout& layout, CachedSequence& sequence, int64_t tokens, uint64_t seed,
                ThreadPool& pool) {
  const int64_t begin = sequence.length(), end = begin + tokens;
  sequence.Reserve(tokens);
  if (sequence.device().kind == Device::Kind::kCuda) {
    cuda::FillRandomOnDevice(layout, sequence, tokens, seed);
    sequence.Commit(tokens);
    return;
  }
  const int64_t layers = layout.num_layers();
  const int64_t first_block = begin / kBlockTokens;
  std::vector<std::vector<float>> scratch(static_cast<size_t>(pool.size()));
  pool.ParallelFor((BlocksFor(end) - first_block) * layers, [&](int64_t task, int worker) {
    ThrowIfCancelled();
    const int64_t block = first_block + task / layers, layer = task % layers;
    const int64_t from = std::max(begin, block * kBlockTokens);
    const int64_t to = std::min(end, (block + 1) * kBlockTokens);
    Rng rng(seed, static_cast<uint64_t>(block * layers + layer));
    std::vector<float>& rows = scratch[static_cast<size_t>(worker)];
    FillRows(layout.layer(layer).k, sequence.table(), from, to, rng, rows);
    FillRows(layout.layer(layer).v, sequence.table(), from, to, rng, rows);
  });
  Rng rng(seed, static_cast<uint64_t>(BlocksFor(end) * layers));
  for (int64_t l = 0; l < layers; ++l) {
    FillWindow(layout, layout.layer(l).k, sequence, begin, end, rng);
    FillWindow(layout, layout.layer(l).v, sequence, begin, end, rng);
  }
  sequence.Commit(tokens);
}

}  // namespace palu
