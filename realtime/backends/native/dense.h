// Memory for weights, and the two loops that take nearly all of a step's time.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "vectors.h"

namespace stemwire {

constexpr size_t kHuge = size_t{2} << 20;

// Memory for arrays of floats: zeroed, aligned to cache lines, contiguous.
class Arena {
 public:
  // Bytes allocated at a time. From 2 MiB on these are huge pages where the system has them: a step
  // reads all weights in their order in memory, and its speed is bound by that.
  explicit Arena(size_t chunk) : chunk_(chunk) {}

  float* take(size_t count) {
    count = (count + 15) / 16 * 16;
    if (count > left_) add(count);
    float* got = next_;
    next_ += count;
    left_ -= count;
    return got;
  }

  int* take_indices(size_t count) {
    static_assert(sizeof(int) == sizeof(float));
    return reinterpret_cast<int*>(take(count));
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };

  void add(size_t count) {
#ifdef __SANITIZE_ADDRESS__
    const size_t unit = 16 * sizeof(float);  // one allocation per array, so that sanitizers see its end
#else
    const size_t unit = chunk_;
#endif
    const size_t bytes = (count * sizeof(float) + unit - 1) / unit * unit;
    float* chunk = static_cast<float*>(std::aligned_alloc(unit, bytes));
    if (!chunk) throw std::bad_alloc();
    chunks_.emplace_back(chunk);
#if defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)
    if (unit >= kHuge) madvise(chunk, bytes, MADV_HUGEPAGE);
#endif
    std::memset(chunk, 0, bytes);
    next_ = chunk;
    left_ = bytes / sizeof(float);
  }

  size_t chunk_;
  std::vector<std::unique_ptr<float, Free>> chunks_;
  float* next_ = nullptr;
  size_t left_ = 0;
};

// The tensors of a checkpoint by name, and the arena for the matrices made of them.
class Weights {
 public:
  using Shape = std::vector<int64_t>;

  explicit Weights(Arena& arena) : arena(arena) {}

  void add(const std::string& name, const float* values, Shape shape) {
    tensors_[name] = {values, std::move(shape)};
  }

  // Throws std::invalid_argument if there is no tensor of this name and shape.
  const float* get(const std::string& name, const Shape& shape) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw std::invalid_argument("no weights " + name);
    if (found->second.shape != shape)
      throw std::invalid_argument(name + " is " + text(found->second.shape) + ", not " + text(shape));
    found->second.used = true;
    return found->second.values;
  }

  // Throws std::invalid_argument if a tensor was not used.
  void end() const {
    for (const auto& [name, tensor] : tensors_)
      if (!tensor.used) throw std::invalid_argument("no place for weights " + name);
  }

  Arena& arena;

 private:
  struct Tensor {
    const float* values = nullptr;
    Shape shape;
    bool used = false;
  };

  static std::string text(const Shape& shape) {
    std::string got;
    for (int64_t size : shape) got += (got.empty() ? "" : " x ") + std::to_string(size);
    return got;
  }

  std::map<std::string, Tensor> tensors_;
};

// Matrix-vector products for several vectors at once: weights are loaded once for all of them. They
// are stored in half precision if that represents all of them exactly, as it does for presets.
// Outputs are computed in tiles of 32, each summed over the inputs in order; a single vector uses two
// tiles at a time, so that no addition waits for the previous one.
class Matrix {
 public:
  static constexpr int kTile = 4 * kLanes;
  static constexpr int kPrefetchDistance = 16;  // in inputs, ahead of the weights in use

  // `weight(output, input)` and `bias(output)` give the values.
  template <typename Weight, typename Bias>
  Matrix(Arena& arena, int inputs, int outputs, Weight weight, Bias bias)
      : inputs_(inputs), outputs_(padded(outputs, kTile)) {
    const size_t count = size_t(inputs_) * outputs_;
    std::vector<float> values(count);
    bias_ = arena.take(outputs_);
    for (int o = 0; o < outputs; ++o) {
      bias_[o] = bias(o);
      for (int i = 0; i < inputs; ++i)
        values[(size_t(o / kTile) * inputs + i) * kTile + o % kTile] = weight(o, i);
    }
    std::vector<Half> halves(count);
    std::transform(values.begin(), values.end(), halves.begin(), half_of);
    bool exact = true;
    for (size_t i = 0; i < count; i += kLanes) {
      const Vec kept = load(halves.data() + i);
      exact = exact && !std::memcmp(&kept, values.data() + i, sizeof kept);
    }
    if (exact) {
      halves_ = reinterpret_cast<Half*>(arena.take((count + 1) / 2));
      std::copy(halves.begin(), halves.end(), halves_);
    } else {
      floats_ = arena.take(count);
      std::copy(values.begin(), values.end(), floats_);
    }
  }

  // x[r][inputs] -> y[r][outputs, padded to whole tiles].
  void apply(int count, const float* const* x, float* const* y) const {
    if (halves_) return tiles(halves_, count, x, y);
    tiles(floats_, count, x, y);
  }

  // The same for one vector whose only nonzero inputs are those in `used`, in order, followed by
  // `kPrefetchDistance` arbitrary valid inputs.
  void apply_to(const int* used, int count, const float* x, float* y) const {
    if (halves_) return tiles_of(halves_, used, count, x, y);
    tiles_of(floats_, used, count, x, y);
  }

 private:
  template <typename Kept>
  void tiles(const Kept* weights, int count, const float* const* x, float* const* y) const {
    const auto in_turn = [](int j) { return j; };
    int o = 0;
    if (count == 1)
      for (; o + 2 * kTile <= outputs_; o += 2 * kTile)
        tile<1, 2>(weights, o, inputs_, in_turn, x, y);
    for (; o < outputs_; o += kTile) {
      int r = 0;
      for (; r + 3 <= count; r += 3) tile<3, 1>(weights, o, inputs_, in_turn, x + r, y + r);
      if (count - r == 2) tile<2, 1>(weights, o, inputs_, in_turn, x + r, y + r);
      if (count - r == 1) tile<1, 1>(weights, o, inputs_, in_turn, x + r, y + r);
    }
  }

  template <typename Kept>
  void tiles_of(const Kept* weights, const int* used, int count, const float* x, float* y) const {
    const auto listed = [used](int j) { return used[j]; };
    int o = 0;
    for (; o + 2 * kTile <= outputs_; o += 2 * kTile)
      tile<1, 2>(weights, o, count, listed, &x, &y);
    if (o < outputs_) tile<1, 1>(weights, o, count, listed, &x, &y);
  }

  // `Tiles` tiles from output `o` on, over the inputs `input(0)` to `input(count - 1)`.
  template <int Rows, int Tiles, typename Kept, typename Input>
  void tile(const Kept* weights, int o, int count, Input input, const float* const* x,
            float* const* y) const {
    const size_t size = size_t(inputs_) * kTile;  // of one tile
    const Kept* first = weights + size_t(o) * inputs_;
    Vec sums[Tiles][Rows][4];
    for (int t = 0; t < Tiles; ++t)
      for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < 4; ++v) sums[t][r][v] = load(bias_ + o + t * kTile + v * kLanes);
    for (int j = 0; j < count; ++j) {
      const int i = input(j);
      const Kept* soon = first + size_t(input(j + kPrefetchDistance)) * kTile;
      for (int t = 0; t < Tiles; ++t) {
        const Kept* w = first + t * size + size_t(i) * kTile;
        prefetch(soon + t * size);
        const Vec w0 = load(w), w1 = load(w + kLanes), w2 = load(w + 2 * kLanes),
                  w3 = load(w + 3 * kLanes);
        for (int r = 0; r < Rows; ++r) {
          const float value = x[r][i];
          sums[t][r][0] += w0 * value;
          sums[t][r][1] += w1 * value;
          sums[t][r][2] += w2 * value;
          sums[t][r][3] += w3 * value;
        }
      }
    }
    for (int t = 0; t < Tiles; ++t)
      for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < 4; ++v) store(y[r] + o + t * kTile + v * kLanes, sums[t][r][v]);
  }

  int inputs_, outputs_;
  Half* halves_ = nullptr;  // or
  float* floats_ = nullptr;
  float* bias_;
};

// Shape of the values of one frame: rows (positions, or one for a token) of `width` values, each row
// padded with zeros to whole registers.
struct Sheet {
  Sheet(int rows, int width) : rows(rows), width(width), pitch(padded(width, 2 * kLanes)) {}

  size_t size() const { return size_t(rows) * pitch; }

  int rows, width, pitch;
};

// Product of one matrix with every row of a sheet: x (rows, inputs) -> y (rows, outputs). The weights
// are few and reused, so six rows and two registers of outputs are computed at a time: twelve sums in
// sixteen registers.
class RowLinear {
 public:
  RowLinear(Weights& weights, const std::string& name, int rows, int inputs, int outputs,
            bool biased = true)
      : in_(rows, inputs), out_(rows, outputs) {
    const float* values = weights.get(name + ".weight", {outputs, inputs});
    weights_ = weights.arena.take(size_t(out_.pitch) * inputs);
    bias_ = weights.arena.take(out_.pitch);
    if (biased) std::copy_n(weights.get(name + ".bias", {outputs}), outputs, bias_);
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < inputs; ++i)
        weights_[(size_t(o / kTile) * inputs + i) * kTile + o % kTile] = values[size_t(o) * inputs + i];
  }

  const Sheet& out() const { return out_; }

  void apply(const float* x, float* y) const {
    int r = 0;
    for (; r + kRows <= in_.rows; r += kRows) rows<kRows>(r, x, y);
    switch (in_.rows - r) {
      case 1: return rows<1>(r, x, y);
      case 2: return rows<2>(r, x, y);
      case 3: return rows<3>(r, x, y);
      case 4: return rows<4>(r, x, y);
      case 5: return rows<5>(r, x, y);
    }
  }

 private:
  static constexpr int kTile = 2 * kLanes, kRows = 6;

  template <int Rows>
  void rows(int from, const float* x, float* y) const {
    const float* w = weights_;
    x += size_t(from) * in_.pitch;
    y += size_t(from) * out_.pitch;
    for (int o = 0; o < out_.pitch; o += kTile) {
      Vec sums[Rows][2];
      for (int r = 0; r < Rows; ++r) {
        sums[r][0] = load(bias_ + o);
        sums[r][1] = load(bias_ + o + kLanes);
      }
      for (int i = 0; i < in_.width; ++i, w += kTile) {
        const Vec a = load(w), b = load(w + kLanes);
        for (int r = 0; r < Rows; ++r) {
          const float value = x[r * in_.pitch + i];
          sums[r][0] += a * value;
          sums[r][1] += b * value;
        }
      }
      for (int r = 0; r < Rows; ++r) {
        store(y + r * out_.pitch + o, sums[r][0]);
        store(y + r * out_.pitch + o + kLanes, sums[r][1]);
      }
    }
  }

  Sheet in_, out_;
  float *weights_, *bias_;
};

}  // namespace stemwire
