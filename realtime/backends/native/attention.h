// Attention of a frame to earlier frames; see `WindowedAttention` in model/layers.py.
#pragma once

#include "layers.h"

namespace stemwire {

// Projection within each band, then a depthwise convolution over the last three frames.
class BandProjection {
 public:
  BandProjection(Weights& weights, const std::string& name, int heads, int head_width, int outputs,
                 size_t& state)
      : heads_(heads), head_width_(head_width), pitch_(padded(outputs * head_width, Matrix::kTile)) {
    const int wide = outputs * head_width;
    const float* values = weights.get(name + ".weight", {heads, head_width, wide});
    const float* taps = weights.get(name + ".conv.weight", {heads * wide, 1, kTaps});
    taps_ = weights.arena.take(size_t(kTaps) * heads * pitch_);
    for (int h = 0; h < heads; ++h) {
      const float* band = values + size_t(h) * head_width * wide;
      bands_.emplace_back(
          weights.arena, head_width, wide,
          [=](int o, int i) { return band[size_t(i) * wide + o]; }, [](int) { return 0.0f; });
      for (int k = 0; k < kTaps; ++k)
        for (int o = 0; o < wide; ++o)
          taps_[(k * heads + h) * pitch_ + o] = taps[(h * wide + o) * kTaps + k];
    }
    place_ = state;
    state += size_t(kTaps - 1) * heads * pitch_;
  }

  int pitch() const { return pitch_; }  // from one head to the next

  // x (heads * head_width) -> y (heads, pitch).
  void apply(Rows rows, const Pointers& x, const Pointers& y) const {
    Pointers from, to;
    for (int h = 0; h < heads_; ++h) {
      for (int r = 0; r < rows.count; ++r) {
        from[r] = x[r] + h * head_width_;
        to[r] = y[r] + h * pitch_;
      }
      bands_[h].apply(rows.count, from.data(), to.data());
    }
    const int count = heads_ * pitch_;
    for (int r = 0; r < rows.count; ++r) {
      float *older = rows.rows[r].state + place_, *old = older + count, *now = y[r];
      for (int i = 0; i < count; i += kLanes) {
        const Vec past = load(old + i), present = load(now + i);
        store(now + i, load(older + i) * load(taps_ + i) + past * load(taps_ + count + i) +
                           present * load(taps_ + 2 * count + i));
        store(older + i, past);
        store(old + i, present);
      }
    }
  }

 private:
  int heads_, head_width_, pitch_;
  std::vector<Matrix> bands_;
  float* taps_;
  size_t place_;
};

// Attention to the last W frames. Keys and values are kept in rings; sums over time always run from
// the oldest frame on, so the result does not depend on where in a ring a song started.
class WindowedAttention {
 public:
  WindowedAttention(Weights& weights, const std::string& name, int width, int heads, int window,
                    bool cross, size_t& state)
      : cross_(cross),
        heads_(heads),
        head_width_(width / heads),
        window_(window),
        keys_pitch_(padded(window)),
        values_pitch_(padded(width / heads)),
        scale_(1.0f / std::sqrt(float(width / heads))),
        source_(weights, name + ".source", heads, width / heads, cross ? 2 : 3, state),
        out_(linear(weights, name + ".out", width, width)) {
    if (cross)
      query_ = std::make_unique<BandProjection>(weights, name + ".query", heads, width / heads, 1,
                                                state);
    const float* bias = weights.get(name + ".distance_bias", {heads, window});
    bias_ = weights.arena.take(size_t(heads) * keys_pitch_);
    for (int h = 0; h < heads; ++h)  // oldest first
      std::reverse_copy(bias + h * window, bias + (h + 1) * window, bias_ + h * keys_pitch_);
    keys_ = state;
    state += size_t(heads) * head_width_ * keys_pitch_;
    values_ = state;
    state += size_t(heads) * window * values_pitch_;
  }

  int window_pitch() const { return keys_pitch_; }
  size_t scores() const { return size_t(heads_) * keys_pitch_; }
  size_t projected() const { return size_t(heads_) * source_.pitch(); }

  // Queries are row.normed_tokens, keys and values row.normed_memory or the tokens themselves; the
  // result is row.attended. Raw scores are added to `scores`.
  void apply(Rows rows, float* Row::*scores) const {
    const Pointers queries = rows.pick(&Row::normed_tokens), source = rows.pick(&Row::source);
    if (cross_) {
      query_->apply(rows, queries, rows.pick(&Row::query));
      source_.apply(rows, rows.pick(&Row::normed_memory), source);
    } else {
      source_.apply(rows, queries, source);
    }
    for (Row& row : rows)
      for (int h = 0; h < heads_; ++h) {
        const float* found = row.source + h * source_.pitch();
        const float* query = cross_ ? row.query + h * query_->pitch() : found;
        attend(row, h, query, found + (cross_ ? 0 : head_width_), row.*scores + h * keys_pitch_,
               row.found + h * head_width_);
      }
    out_.apply(rows.count, rows.pick(&Row::found).data(), rows.pick(&Row::attended).data());
  }

 private:
  // `key` is followed by the value.
  void attend(Row& row, int head, const float* query, const float* key, float* scores,
              float* answer) const {
    const int place = int(row.age % window_);
    float* keys = row.state + keys_ + size_t(head) * head_width_ * keys_pitch_;      // (D, W)
    float* values = row.state + values_ + size_t(head) * window_ * values_pitch_;  // (W, D)
    for (int d = 0; d < head_width_; ++d) keys[d * keys_pitch_ + place] = key[d];
    std::copy_n(key + head_width_, head_width_, values + place * values_pitch_);

    const int oldest = (place + 1) % window_, wrapped = window_ - oldest;
    float *ring_scores = row.ring_scores, *weight = row.weight;
    int w = 0;
    for (; w + 8 * kLanes <= window_; w += 8 * kLanes) products<8>(keys + w, query, ring_scores + w);
    for (; w < window_; w += kLanes) products<1>(keys + w, query, ring_scores + w);
    std::copy_n(ring_scores + oldest, wrapped, weight);
    std::copy_n(ring_scores, oldest, weight + wrapped);

    const float* bias = bias_ + head * keys_pitch_;
    Vec largest = splat(-INFINITY);
    for (w = 0; w < window_; w += kLanes) {
      Vec raw = load(weight + w) * scale_ + load(bias + w) + load(scores + w);
      store(scores + w, raw);
      if (window_ - w < kLanes) raw = select(first(window_ - w), raw, splat(-INFINITY));
      store(weight + w, raw);
      largest = greater_of(raw, largest);
    }
    float peak = largest[0];
    for (int i = 1; i < kLanes; ++i) peak = std::max(peak, largest[i]);
    Vec sums = {};
    for (w = 0; w < window_; w += kLanes) {
      const Vec power = exponential(load(weight + w) - peak);
      store(weight + w, power);
      sums += power;
    }
    const float share = 1.0f / sum(sums);
    int d = 0;
    for (; d + 4 * kLanes <= head_width_; d += 4 * kLanes)
      mixture<4>(values + d, oldest, weight, share, answer + d);
    for (; d < head_width_; d += kLanes) {
      alignas(32) float last[kLanes];
      mixture<1>(values + d, oldest, weight, share, last);
      std::copy_n(last, std::min(kLanes, head_width_ - d), answer + d);
    }
  }

  // Products of the query with N vectors of keys.
  template <int N>
  void products(const float* keys, const float* query, float* to) const {
    Vec sums[N] = {};
    const size_t next = size_t(head_width_) * keys_pitch_;  // head's
    for (int d = 0; d < head_width_; ++d, keys += keys_pitch_)
      for (int v = 0; v < N; ++v) {
        if (v % 2 == 0) prefetch(keys + next + v * kLanes);
        sums[v] += load(keys + v * kLanes) * query[d];
      }
    for (int v = 0; v < N; ++v) store(to + v * kLanes, sums[v]);
  }

  // Weighted sum of N vectors of values, from the oldest on.
  template <int N>
  void mixture(const float* values, int oldest, const float* weight, float share,
               float* to) const {
    Vec sums[N] = {};
    const size_t next = size_t(window_) * values_pitch_;  // head's
    const auto sum_up = [&](int begin, int end) {
      for (int w = begin; w < end; ++w, ++weight)
        for (int v = 0; v < N; ++v) {
          const float* from = values + w * values_pitch_ + v * kLanes;
          if (v % 2 == 0) prefetch(from + next);
          sums[v] += load(from) * *weight;
        }
    };
    sum_up(oldest, window_);
    sum_up(0, oldest);
    for (int v = 0; v < N; ++v) store(to + v * kLanes, sums[v] * share);
  }

  bool cross_;
  int heads_, head_width_, window_, keys_pitch_, values_pitch_;
  float scale_;
  BandProjection source_;
  std::unique_ptr<BandProjection> query_;
  float* bias_;
  size_t keys_, values_;
  Matrix out_;
};

}  // namespace stemwire
