// The layers of model/layers.py, one frame at a time, for several streams at once.
//
// Names of classes, weights and steps are those of the Python module; what they compute is written
// there. A layer owns its weights; what a stream remembers lies in the stream's state, at the place
// that the layer took when it was built; what one step needs in between lies in its `Row`.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "dense.h"

namespace stemwire {

constexpr int kMost = 64;  // streams in one step
using Pointers = std::array<float*, kMost>;

// One stream's share of a step: where its numbers lie. Planes are given by their first position.
struct Row {
  const float* frame;  // real and imaginary parts in turn: channels x (bins + 1)
  float* vocals;       // likewise
  float* state;
  int place;  // in the windows, of this frame
  float *spectrum, *features;
  std::vector<float*> x, joined, normed;  // by level; `joined` holds the skip in its second half
  std::vector<float*> memory;             // by level: the encoder's tokens
  float *one, *other;                     // planes of any level; what is in their margins is anybody's
  float *tokens, *quiet_tokens, *quiet_memory, *query, *source, *attended, *found, *hidden;
  int* used;  // which of `hidden` are not zero
  float *own_scores, *skip_scores;
  float *as_kept, *weight;  // of one head's window
};

struct Rows {
  Row* rows;
  int count;

  Row* begin() const { return rows; }
  Row* end() const { return rows + count; }

  Pointers pick(float* Row::*part) const {
    Pointers got;
    for (int r = 0; r < count; ++r) got[r] = rows[r].*part;
    return got;
  }
};

inline void add(float* x, const float* y, int count) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) store(x + i, load(x + i) + load(y + i));
  for (; i < count; ++i) x[i] += y[i];
}

// Layer norm over all values of a plane, or of a token (one channel).
class FrameNorm {
 public:
  FrameNorm(Weights& weights, const std::string& name, Plane plane, float epsilon)
      : FrameNorm(weights, name, plane, {plane.channels, plane.positions}, epsilon) {}

  // Of a token.
  FrameNorm(Weights& weights, const std::string& name, int width, float epsilon)
      : FrameNorm(weights, name, Plane(1, width), {width}, epsilon) {}

  void apply(const float* x, float* y) const {
    const float count = float(plane_.channels) * float(plane_.positions);
    const Vec mean = splat(total(x, [](Vec v) { return v; }) / count);
    const float variance = total(x, [mean](Vec v) { return (v - mean) * (v - mean); }) / count;
    const Vec scale = splat(1.0f / std::sqrt(variance + epsilon_));
    const int whole = plane_.positions / kLanes * kLanes, left = plane_.positions - whole;
    for (int c = 0; c < plane_.channels; ++c) {
      const float *from = x + c * plane_.pitch, *gain = gain_ + c * stride_,
                  *bias = bias_ + c * stride_;
      float* to = y + c * plane_.pitch;
      const auto normed = [&](int f) {
        return (load(from + f) - mean) * scale * load(gain + f) + load(bias + f);
      };
      for (int f = 0; f < whole; f += kLanes) store(to + f, normed(f));
      if (left) {
        const Vec rest = normed(whole);
        std::memcpy(to + whole, &rest, left * sizeof(float));
      }
    }
  }

 private:
  FrameNorm(Weights& weights, const std::string& name, Plane plane, const Weights::Shape& shape,
            float epsilon)
      : plane_(plane), epsilon_(epsilon), stride_(padded(plane.positions)) {
    const float* gain = weights.get(name + ".weight", shape);
    const float* bias = weights.get(name + ".bias", shape);
    gain_ = weights.arena.take(size_t(plane.channels) * stride_);
    bias_ = weights.arena.take(size_t(plane.channels) * stride_);
    for (int c = 0; c < plane.channels; ++c) {
      std::copy_n(gain + c * plane.positions, plane.positions, gain_ + c * stride_);
      std::copy_n(bias + c * plane.positions, plane.positions, bias_ + c * stride_);
    }
  }

  template <typename F>
  float total(const float* x, F part) const {
    Vec sums[4] = {};  // so that one addition need not wait for the one before
    const int whole = plane_.positions / kLanes * kLanes, left = plane_.positions - whole;
    for (int c = 0; c < plane_.channels; ++c) {
      const float* from = x + c * plane_.pitch;
      int f = 0;
      for (; f + 4 * kLanes <= whole; f += 4 * kLanes)
        for (int v = 0; v < 4; ++v) sums[v] += part(load(from + f + v * kLanes));
      for (; f < whole; f += kLanes) sums[0] += part(load(from + f));
      if (left) sums[1] += select(first(left), part(load(from + whole)), Vec{});
    }
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  Plane plane_;
  float epsilon_;
  int stride_;
  float *gain_, *bias_;
};

// Convolution over the frequencies of a frame. With a stride, positions are first dealt out to as
// many rows for each channel; with `upsample`, rows are dealt back into one.
class FrameConv {
 public:
  FrameConv(Weights& weights, const std::string& name, int inputs, int outputs, int positions,
            int kernel, int stride = 1, int upsample = 1)
      : stride_(stride),
        upsample_(upsample),
        in_(inputs, positions),
        dealt_(inputs * stride, positions / stride),
        sums_plane_(outputs * upsample, positions / stride),
        out_(outputs, positions / stride * upsample) {
    const int rows = outputs * upsample, taps = inputs * kernel;
    const float* values = weights.get(name + ".conv.weight", {rows, inputs, kernel});
    const float* bias = weights.get(name + ".conv.bias", {rows});
    const int padding = stride > 1 ? (kernel - stride) / 2 : kernel / 2;
    std::vector<int> offsets;
    for (int c = 0; c < inputs; ++c)
      for (int k = 0; k < kernel; ++k) {
        const int moved = k - padding + stride;  // never negative
        offsets.push_back((c * stride + moved % stride) * dealt_.pitch + moved / stride - 1);
      }
    sums_ = std::make_unique<RowSums>(
        weights.arena, std::move(offsets), rows, sums_plane_.positions, sums_plane_.pitch,
        [&](int o, int j) { return values[size_t(o) * taps + j]; }, [&](int o) { return bias[o]; });
  }

  // Floats of scratch that `apply` needs.
  size_t scratch() const {
    return stride_ > 1 ? dealt_.size() : upsample_ > 1 ? sums_plane_.size() : 0;
  }

  void apply(const float* x, float* y, float* scratch) const {
    float* between = scratch + Plane::kMargin;
    if (stride_ > 1) {
      deal(x, between);
      sums_->apply(between, y);
    } else if (upsample_ > 1) {
      sums_->apply(x, between);
      gather(between, y);
    } else {
      sums_->apply(x, y);
    }
  }

 private:
  void deal(const float* x, float* y) const {
    const int positions = dealt_.positions;
    for (int c = 0; c < in_.channels; ++c)
      for (int s = 0; s < stride_; ++s) {
        const float* from = x + c * in_.pitch + s;
        float* to = y + (c * stride_ + s) * dealt_.pitch;
        for (int f = 0; f < positions; ++f) to[f] = from[f * stride_];
        to[-1] = to[positions] = 0.0f;
      }
  }

  void gather(const float* x, float* y) const {
    const int positions = sums_plane_.positions;
    for (int c = 0; c < out_.channels; ++c)
      for (int u = 0; u < upsample_; ++u) {
        const float* from = x + (c * upsample_ + u) * sums_plane_.pitch;
        float* to = y + c * out_.pitch + u;
        for (int f = 0; f < positions; ++f) to[f * upsample_] = from[f];
      }
  }

  int stride_, upsample_;
  Plane in_, dealt_, sums_plane_, out_;
  std::unique_ptr<RowSums> sums_;
};

class FrameUnit {
 public:
  FrameUnit(Weights& weights, const std::string& name, Plane plane)
      : plane_(plane),
        norm_(weights, name + ".norm", plane, 1e-4f),
        wide_(weights, name + ".wide", plane.channels, plane.channels, plane.positions, 3),
        out_(weights, name + ".out", plane.channels, plane.channels, plane.positions, 1) {}

  // `normed` is a plane of this size with margins.
  void apply(float* x, float* normed, Row& row) const {
    norm_.apply(x, normed);
    wide_.apply(normed, row.one, row.other);
    for (int c = 0; c < plane_.channels; ++c) {
      float* values = row.one + c * plane_.pitch;
      for (int f = 0; f < plane_.positions; f += kLanes) {
        const Vec v = load(values + f);
        store(values + f, v / (1.0f + exponential(-v)));
      }
    }
    out_.apply(row.one, row.other, row.one);
    for (int c = 0; c < plane_.channels; ++c)
      add(x + c * plane_.pitch, row.other + c * plane_.pitch, plane_.positions);
  }

 private:
  Plane plane_;
  FrameNorm norm_;
  FrameConv wide_, out_;
};

// nn.Linear.
inline Matrix linear(Weights& weights, const std::string& name, int inputs, int outputs) {
  const float* values = weights.get(name + ".weight", {outputs, inputs});
  const float* bias = weights.get(name + ".bias", {outputs});
  return Matrix(
      weights.arena, inputs, outputs, [=](int o, int i) { return values[size_t(o) * inputs + i]; },
      [=](int o) { return bias[o]; });
}

}  // namespace stemwire
