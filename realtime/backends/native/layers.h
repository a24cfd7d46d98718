// The layers of model/layers.py, one frame at a time, for several streams at once.
//
// Names of classes, weights and steps are those of the Python module, which documents what they
// compute. A layer owns its weights; the state of a stream is one array, in which each layer reserved
// its part at construction; the scratch memory of a step is in its `Row`.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "dense.h"

namespace stemwire {

constexpr int kMaxStreams = 64;  // in one step
using Pointers = std::array<float*, kMaxStreams>;

// Pointers of one stream in a step.
struct Row {
  const float* frame;  // interleaved real and imaginary parts: channels x (bins + 1)
  float* vocals;       // likewise
  float* state;
  int64_t age;  // frames that the stream has processed before
  int earlier;  // rows directly before this one that belong to the same stream
  float *features, *filters;              // by feature, or by factor: bins
  std::vector<float*> x, skip, memory;    // by level; features, the encoder's, and its tokens
  float *one, *other;                     // sheets of any level
  float *band;                            // input or output of a band
  float *tokens, *normed_tokens, *normed_memory, *query, *source, *attended, *found, *hidden;
  int* used;  // indices of nonzero `hidden`
  float *own_scores, *skip_scores;
  float *ring_scores, *weight;  // for the window of one head
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

inline void add(float* x, const float* y, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(x + i, load(x + i) + load(y + i));
  for (; i < count; ++i) x[i] += y[i];
}

// Layer norm over all values of a sheet.
class FrameNorm {
 public:
  FrameNorm(Weights& weights, const std::string& name, Sheet sheet, float epsilon)
      : FrameNorm(weights, name, sheet, {sheet.rows, sheet.width}, epsilon) {}

  // For a token.
  FrameNorm(Weights& weights, const std::string& name, int width, float epsilon)
      : FrameNorm(weights, name, Sheet(1, width), {width}, epsilon) {}

  // The padding of `x` must be zero; that of `y` is set to zero.
  void apply(const float* x, float* y) const {
    const float count = float(sheet_.rows) * float(sheet_.width);
    const Vec mean = splat(total(x, [](Vec v) { return v; }) / count);
    const float variance = total(x, [mean](Vec v) { return (v - mean) * (v - mean); }) / count;
    const Vec scale = splat(1.0f / std::sqrt(variance + epsilon_));
    for (size_t i = 0; i < sheet_.size(); i += kLanes)
      store(y + i, (load(x + i) - mean) * scale * load(gain_ + i) + load(bias_ + i));
  }

 private:
  FrameNorm(Weights& weights, const std::string& name, Sheet sheet, const Weights::Shape& shape,
            float epsilon)
      : sheet_(sheet), epsilon_(epsilon) {
    const float* gain = weights.get(name + ".weight", shape);
    const float* bias = weights.get(name + ".bias", shape);
    gain_ = weights.arena.take(sheet.size());
    bias_ = weights.arena.take(sheet.size());
    for (int r = 0; r < sheet.rows; ++r) {
      std::copy_n(gain + r * sheet.width, sheet.width, gain_ + r * sheet.pitch);
      std::copy_n(bias + r * sheet.width, sheet.width, bias_ + r * sheet.pitch);
    }
  }

  template <typename F>
  float total(const float* x, F part) const {
    Vec sums[4] = {};  // so that no addition waits for the previous one
    const int whole = sheet_.width / kLanes * kLanes, left = sheet_.width - whole;
    for (int r = 0; r < sheet_.rows; ++r) {
      const float* from = x + r * sheet_.pitch;
      int i = 0;
      for (; i + 4 * kLanes <= whole; i += 4 * kLanes)
        for (int v = 0; v < 4; ++v) sums[v] += part(load(from + i + v * kLanes));
      for (; i < whole; i += kLanes) sums[i / kLanes % 4] += part(load(from + i));
      if (left) sums[1] += select(first(left), part(load(from + whole)), Vec{});
    }
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  Sheet sheet_;
  float epsilon_;
  float *gain_, *bias_;
};

constexpr int kTaps = 3;  // frames that a convolution over time sees, and positions

class FrameUnit {
 public:
  FrameUnit(Weights& weights, const std::string& name, Sheet sheet, int expansion, size_t& state)
      : sheet_(sheet),
        norm_(weights, name + ".norm", sheet, 1e-4f),
        wide_(weights, name + ".wide", sheet.rows, sheet.width, expansion * sheet.width),
        out_(weights, name + ".out", sheet.rows, expansion * sheet.width, sheet.width) {
    const int channels = sheet.width, pitch = sheet.pitch;
    const float* taps = weights.get(name + ".conv.weight", {channels, 1, kTaps, 3});
    const float* bias = weights.get(name + ".conv.bias", {channels});
    taps_ = weights.arena.take(size_t(kTaps) * 3 * pitch);
    bias_ = weights.arena.take(pitch);
    std::copy_n(bias, channels, bias_);
    for (int c = 0; c < channels; ++c)
      for (int k = 0; k < kTaps * 3; ++k) taps_[k * pitch + c] = taps[c * kTaps * 3 + k];
    place_ = state;
    state += (kTaps - 1) * sheet.size();
  }

  size_t widest() const { return wide_.out().size(); }

  void apply(Row& row, float* x) const {
    float *older = row.state + place_, *old = older + sheet_.size();
    convolve({older, old, x}, row.one);
    std::copy_n(old, sheet_.size(), older);
    std::copy_n(x, sheet_.size(), old);
    norm_.apply(row.one, row.one);
    wide_.apply(row.one, row.other);
    for (size_t i = 0; i < widest(); i += kLanes) {
      const Vec v = load(row.other + i);
      store(row.other + i, v / (1.0f + exponential(-v)));
    }
    out_.apply(row.other, row.one);
    add(x, row.one, sheet_.size());
  }

 private:
  // Depthwise, over three frames (oldest first) and three neighbouring positions.
  void convolve(std::array<const float*, kTaps> frames, float* y) const {
    const int pitch = sheet_.pitch, last = sheet_.rows - 1;
    for (int p = 0; p <= last; ++p)
      for (int c = 0; c < pitch; c += kLanes) {
        Vec sums = load(bias_ + c);
        for (int t = 0; t < kTaps; ++t)
          for (int k = p ? 0 : 1; k < (p < last ? 3 : 2); ++k)
            sums += load(frames[t] + (p + k - 1) * pitch + c) * load(taps_ + (t * 3 + k) * pitch + c);
        store(y + p * pitch + c, sums);
      }
  }

  Sheet sheet_;
  FrameNorm norm_;
  RowLinear wide_, out_;
  float *taps_, *bias_;
  size_t place_;
};

// Groups of equal bands, lowest frequencies first.
struct Bands {
  struct Band {
    int first, width;          // bins
    int group, within, count;  // group, index in it and size of it
  };

  Bands(const int32_t* pairs, int groups) {
    for (int g = 0; g < groups; ++g)
      for (int b = 0; b < pairs[2 * g]; ++b) {
        bands.push_back({bins, pairs[2 * g + 1], g, b, pairs[2 * g]});
        bins += pairs[2 * g + 1];
        widest = std::max(widest, int(pairs[2 * g + 1]));
      }
  }

  int count() const { return int(bands.size()); }

  std::vector<Band> bands;
  int bins = 0, widest = 0;
};

// Weights of BandLinear and BandExpand: a matrix for each band, stored by groups of equal bands.
// `sides(width)` returns the numbers of inputs and outputs of a band, `transform` its matrix and bias.
class BandMatrices {
 public:
  template <typename Sides, typename Bias>
  BandMatrices(Weights& weights, const std::string& name, const Bands& bands, Sides sides,
               Bias bias) {
    for (int b = 0; b < bands.count(); ++b) {
      const Bands::Band& band = bands.bands[b];
      const auto [inputs, outputs] = sides(band.width);
      const float* own = weights.get(name + ".weights." + std::to_string(band.group),
                                     {band.count, inputs, outputs}) +
                         size_t(band.within) * inputs * outputs;
      matrices_.emplace_back(
          weights.arena, inputs, outputs,
          [own, outputs = outputs](int o, int i) { return own[size_t(i) * outputs + o]; },
          [&](int o) { return bias(b, o); });
    }
  }

  const Matrix& operator[](int band) const { return matrices_[band]; }

 private:
  std::vector<Matrix> matrices_;
};

// Features of all bins, `pitch` floats apart -> a sheet with one row for each band.
class BandLinear {
 public:
  BandLinear(Weights& weights, const std::string& name, const Bands& bands, int inputs, int pitch,
             Sheet out)
      : bands_(bands), inputs_(inputs), pitch_(pitch), out_(out),
        matrices_(weights, name, bands,
                  [=](int width) { return std::pair(inputs * width, out.width); },
                  [bias = weights.get(name + ".bias", {out.rows, out.width}),
                   width = out.width](int band, int o) { return bias[band * width + o]; }) {}

  void apply(const float* features, float* y, Row& row) const {
    for (int b = 0; b < bands_.count(); ++b) {
      const int first = bands_.bands[b].first, width = bands_.bands[b].width;
      for (int i = 0; i < inputs_; ++i)
        std::copy_n(features + i * pitch_ + first, width, row.band + i * width);
      float *in = row.band, *out = row.found;
      matrices_[b].apply(1, &in, &out);
      std::copy_n(row.found, out_.width, y + b * out_.pitch);
    }
  }

 private:
  Bands bands_;
  int inputs_, pitch_;
  Sheet out_;
  BandMatrices matrices_;
};

// The inverse: a sheet -> values of all bins.
class BandExpand {
 public:
  BandExpand(Weights& weights, const std::string& name, const Bands& bands, Sheet in, int outputs,
             int pitch)
      : bands_(bands), in_(in), outputs_(outputs), pitch_(pitch),
        matrices_(weights, name, bands,
                  [=](int width) { return std::pair(in.width, outputs * width); },
                  [bias = weights.get(name + ".bias", {outputs, bands.bins}),
                   bands](int band, int o) {
                    const int first = bands.bands[band].first, width = bands.bands[band].width;
                    return bias[o / width * bands.bins + first + o % width];
                  }) {}

  void apply(float* x, float* y, Row& row) const {
    for (int b = 0; b < bands_.count(); ++b) {
      const int first = bands_.bands[b].first, width = bands_.bands[b].width;
      float *in = x + b * in_.pitch, *out = row.band;
      matrices_[b].apply(1, &in, &out);
      for (int o = 0; o < outputs_; ++o)
        std::copy_n(row.band + o * width, width, y + o * pitch_ + first);
    }
  }

 private:
  Bands bands_;
  Sheet in_;
  int outputs_, pitch_;
  BandMatrices matrices_;
};

// nn.Linear of a token.
inline Matrix linear(Weights& weights, const std::string& name, int inputs, int outputs) {
  const float* values = weights.get(name + ".weight", {outputs, inputs});
  const float* bias = weights.get(name + ".bias", {outputs});
  return Matrix(
      weights.arena, inputs, outputs, [=](int o, int i) { return values[size_t(o) * inputs + i]; },
      [=](int o) { return bias[o]; });
}

}  // namespace stemwire
