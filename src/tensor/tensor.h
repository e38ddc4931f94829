// Views and owners of dense row-major arrays.
//   TensorView   untyped, read only: a weight as stored (often inside a memory-mapped file)
//   MatrixView   typed rows x cols with a row stride, what ops take and write
//   Matrix       typed owner, 64-byte aligned; Resize keeps the allocation when it fits
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "tensor/device.h"
#include "tensor/dtype.h"

namespace palu {

using Shape = std::vector<int64_t>;

// "[4, 128]"
std::string ToString(const Shape& shape);

// Product of the extents; throws Error when one is negative or the product overflows int64.
int64_t NumElements(const Shape& shape);

struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
  Device device = kCpu;

  explicit operator bool() const { return data != nullptr; }
  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  int64_t cols() const { return shape.size() < 2 ? 1 : shape[1]; }
  int64_t size() const;
  int64_t bytes() const { return size() * static_cast<int64_t>(SizeOf(dtype)); }

  // Rows [begin, begin + count) of a matrix.
  TensorView Rows(int64_t begin, int64_t count) const;

  template <class T>
  const T* As() const {
    assert(dtype == DTypeOf<T>());
    return static_cast<const T*>(data);
  }
};

template <class T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements between rows

  MatrixView() = default;
  MatrixView(T* d, int64_t r, int64_t c) : MatrixView(d, r, c, c) {}
  MatrixView(T* d, int64_t r, int64_t c, int64_t s) : data(d), rows(r), cols(c), stride(s) {}
  operator MatrixView<const T>() const { return {data, rows, cols, stride}; }

  T* Row(int64_t r) const { return data + r * stride; }
  std::span<T> RowSpan(int64_t r) const { return {Row(r), static_cast<size_t>(cols)}; }
  T& operator()(int64_t r, int64_t c) const { return data[r * stride + c]; }
  MatrixView RowRange(int64_t begin, int64_t count) const {
    assert(begin >= 0 && begin + count <= rows);
    return {Row(begin), count, cols, stride};
  }
  MatrixView ColRange(int64_t begin, int64_t count) const {
    assert(begin >= 0 && begin + count <= cols);
    return {data + begin, rows, count, stride};
  }
};

inline constexpr size_t kAlignment = 64;

// Owning, aligned, uninitialised until written. Move only.
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t size) { Resize(size); }

  // Contents are lost when the allocation grows.
  void Resize(int64_t size) {
    if (size > capacity_) {
      data_.reset();
      data_.reset(static_cast<T*>(
          ::operator new (static_cast<size_t>(size) * sizeof(T), std::align_val_t{kAlignment})));
      capacity_ = size;
    }
    size_ = size;
  }
  T* data() const { return data_.get(); }
  int64_t size() const { return size_; }

 private:
  struct Deleter {
    void operator()(T* p) const { ::operator delete (p, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<T, Deleter> data_;
  int64_t size_ = 0;
  int64_t capacity_ = 0;
};

template <class T>
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols) { Resize(rows, cols); }

  void Resize(int64_t rows, int64_t cols) {
    buffer_.Resize(rows * cols);
    rows_ = rows;
    cols_ = cols;
  }
  void Fill(T value) { std::fill_n(data(), rows_ * cols_, value); }

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t size() const { return rows_ * cols_; }
  T* data() const { return buffer_.data(); }
  T* Row(int64_t r) const { return data() + r * cols_; }
  T& operator()(int64_t r, int64_t c) const { return data()[r * cols_ + c]; }
  MatrixView<T> View() const { return {data(), rows_, cols_}; }
  operator MatrixView<T>() const { return View(); }
  operator MatrixView<const T>() const { return View(); }

 private:
  AlignedBuffer<T> buffer_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
};

// A weight this process made (fused, random, decomposed) rather than mapped: bytes plus its view.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(DType dtype, Shape shape);

  TensorView View() const { return {bytes_.data(), dtype_, shape_, kCpu}; }
  std::byte* data() const { return bytes_.data(); }
  int64_t size_bytes() const { return bytes_.size(); }

 private:
  AlignedBuffer<std::byte> bytes_;
  DType dtype_ = DType::kF32;
  Shape shape_;
};

}  // namespace palu
