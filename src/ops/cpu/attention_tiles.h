// Tiles of keys and values as float rows, whatever the cache stores.
#pragma once

#include <vector>

#include "ops/attention.h"

namespace palu::cpu {

// Reads one KV head's rows of one chunk's sequence.
class TileReader {
 public:
  using Scratch = AttentionWorkspace::PerWorker;

  TileReader(const AttentionLayer& layer, const AttentionProjection& projection, int64_t kv_head,
             bool rebuild, Matrix<float>& up_scratch);

  // Elements per row: head_dim, or the page's rank when latents are not rebuilt.
  int64_t width() const { return rebuild_ ? head_dim_ : page_.width; }

  // out [count, width()] = rows of tokens [begin, begin + count), rebuilt keys normalised but
  // not yet rotated. Rows from the chunk's start on come from `fresh` when that is given.
  void Read(const QueryChunk& chunk, MatrixView<const float> fresh, int64_t begin, int64_t count,
            Scratch& scratch, MatrixView<float> out) const;

  // The two halves of Read for a reader that rebuilds: latents into scratch, good for all heads of
  // the page; then this head from them.
  void LoadLatents(const QueryChunk& chunk, MatrixView<const float> fresh, int64_t begin,
                   int64_t count, Scratch& scratch) const;
  void Rebuild(const Scratch& scratch, MatrixView<float> out) const;
  // As Read, of recent tokens (`recent` of RecentRows), into a matrix that it sizes.
  void ReadRecent(const QueryChunk& chunk, MatrixView<const float> recent, int64_t begin,
                  int64_t count, Scratch& scratch, Matrix<float>& out) const;
  // Their latents alone: [tokens from `begin` on, rank].
  void RecentLatents(const QueryChunk& chunk, MatrixView<const float> recent, int64_t begin,
                     MatrixView<float> latents) const;
  // This head's rows of U in float32 [d, rank]; of a reader that rebuilds by them.
  MatrixView<const float> up() const { return up_; }
  // Rebuild and RoPE in one pass, by Scratch::rotations; false where there is no such kernel.
  bool RebuildRotated(const Scratch& scratch, MatrixView<float> out) const;

 private:
  void ReadRows(const QueryChunk& chunk, MatrixView<const float> fresh, int64_t begin,
                int64_t count, MatrixView<float> out) const;

  const AttentionProjection& projection_;
  const Int8Up* int8_up_ = nullptr;  // where keys are rebuilt from codes
  const CachedPages::Page& page_;
  int64_t head_dim_;
  int64_t fresh_column_;  // of the page in a row of fresh values
  bool rebuild_;
  TensorView stored_up_;        // [d, rank], this head's rows of U
  MatrixView<const float> up_;  // the same in float32
  std::vector<float> bias_;     // [d], this head's part; empty when none
};

// Unpacks the codes of tokens [begin, begin + count) of a part of a page into the tile.
void LoadCodes(const QueryChunk& chunk, const PageTier& part, int64_t begin, int64_t count,
               CodeTile& tile);

}  // namespace palu::cpu
