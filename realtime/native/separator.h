// The network of model/primer.py and model/separator.py, one frame of several streams at a time.
#pragma once

#include <optional>

#include "attention.h"

namespace stemwire {

// As in model/config.py; the caller has validated it.
struct Config {
  int32_t stack, unet;  // the variant: either, or neither, which is `bridge`
  int32_t channels, analysis_window, stem_stride;
  int32_t token_width, heads, window, feed_forward, blocks;
  float compression;
  int32_t widths_count;
  const int32_t* widths;

  int levels() const { return stack ? 1 : widths_count; }
  int bins() const { return analysis_window / 2; }
  Plane plane(int level) const {
    return Plane(widths[level], (bins() / stem_stride) >> level);
  }
  int magnitudes() const { return channels == 1 ? 1 : 4; }  // left, right, mid, side
  int features() const { return magnitudes() + 2 * channels; }
};

class FramePrimer {
 public:
  FramePrimer(Weights& weights, const std::string& name, const Config& config, int level,
              bool decoder, size_t& state)
      : plane_(config.plane(level)),
        width_(config.token_width),
        inner_(config.token_width * config.feed_forward),
        depth_(config.token_width / plane_.positions),
        norm_(weights, name + ".norm", plane_, 1e-4f),
        narrow_(weights, name + ".narrow", plane_.channels, depth_, plane_.positions, 1),
        widen_(weights, name + ".widen", depth_, plane_.channels, plane_.positions, 1),
        own_norm_(weights, name + ".own_norm", width_, 1e-5f),
        own_(weights, name + ".own", width_, config.heads, config.window, false, state),
        feed_norm_(weights, name + ".feed_norm", width_, 1e-5f),
        inner_matrix_(linear(weights, name + ".feed.inner", width_, inner_)),
        out_matrix_(linear(weights, name + ".feed.out", inner_, width_)) {
    if (!decoder) return;
    skip_norm_.emplace(weights, name + ".skip_norm", width_, 1e-5f);
    memory_norm_.emplace(weights, name + ".memory_norm", width_, 1e-5f);
    skip_.emplace(weights, name + ".skip", width_, config.heads, config.window, true, state);
  }

  const WindowedAttention& own() const { return own_; }

  // Adds to each row.x[level]; a decoder reads row.memory[level], an encoder writes it.
  void apply(Rows rows, int level) const {
    for (Row& row : rows) {
      norm_.apply(row.x[level], row.normed[level]);
      narrow_.apply(row.normed[level], row.one, row.other);
      for (int c = 0; c < depth_; ++c)
        for (int f = 0; f < plane_.positions; ++f)
          row.tokens[f * depth_ + c] = row.one[c * plane_.pitch + f];
      own_norm_.apply(row.tokens, row.quiet_tokens);
    }
    own_.apply(rows, &Row::own_scores);
    for (Row& row : rows) add(row.tokens, row.attended, width_);
    if (skip_) {
      for (Row& row : rows) {
        skip_norm_->apply(row.tokens, row.quiet_tokens);
        memory_norm_->apply(row.memory[level], row.quiet_memory);
      }
      skip_->apply(rows, &Row::skip_scores);
      for (Row& row : rows) add(row.tokens, row.attended, width_);
    }
    feed(rows);
    for (Row& row : rows) {
      if (!skip_) std::copy_n(row.tokens, width_, row.memory[level]);
      for (int c = 0; c < depth_; ++c)
        for (int f = 0; f < plane_.positions; ++f)
          row.one[c * plane_.pitch + f] = row.tokens[f * depth_ + c];
      widen_.apply(row.one, row.other, row.one);
      for (int c = 0; c < plane_.channels; ++c)
        add(row.x[level] + c * plane_.pitch, row.other + c * plane_.pitch, plane_.positions);
    }
  }

 private:
  void feed(Rows rows) const {
    for (Row& row : rows) feed_norm_.apply(row.tokens, row.quiet_tokens);
    inner_matrix_.apply(rows.count, rows.pick(&Row::quiet_tokens).data(), rows.pick(&Row::hidden).data());
    for (Row& row : rows) {
      for (int i = 0; i < inner_; i += kLanes) {
        const Vec v = greater_of(load(row.hidden + i), Vec{});
        store(row.hidden + i, v * v);
      }
      int count = 0;  // few are above zero: four of five weights need not come from memory
      for (int i = 0; i < inner_; ++i) {
        row.used[count] = i;
        count += row.hidden[i] != 0.0f;
      }
      std::fill_n(row.used + count, Matrix::kSoon, 0);
      out_matrix_.apply_to(row.used, count, row.hidden, row.found);
      add(row.tokens, row.found, width_);
    }
  }

  Plane plane_;
  int width_, inner_, depth_;
  FrameNorm norm_;
  FrameConv narrow_, widen_;
  FrameNorm own_norm_;
  WindowedAttention own_;
  FrameNorm feed_norm_;
  Matrix inner_matrix_, out_matrix_;
  std::optional<FrameNorm> skip_norm_, memory_norm_;
  std::optional<WindowedAttention> skip_;
};

class Separator {
 public:
  // Throws std::invalid_argument if weights are missing or of another size.
  Separator(const Config& config, Weights& weights)
      : config_(config),
        widths_(config.widths, config.widths + config.widths_count),
        stem_(weights, "stem", config.features(), widths_[0], config.bins(),
              std::max(3, 2 * config.stem_stride), config.stem_stride) {
    config_.widths = widths_.data();
    const int last = config.levels() - 1;
    for (int level = 0; level < last; ++level) {
      const Plane plane = config_.plane(level);
      const std::string name = "encoders." + std::to_string(level);
      units_.emplace_back(weights, name + ".unit", plane);
      if (config.unet)
        primers_.emplace_back(weights, name + ".primer", config_, level, false, state_);
      downs_.emplace_back(weights, name + ".down", plane.channels, widths_[level + 1],
                          plane.positions, 4, 2);
    }
    units_.emplace_back(weights, "bottom_unit", config_.plane(last));
    for (int i = 0; i < config.blocks; ++i)
      primers_.emplace_back(weights, "bottom." + std::to_string(i), config_, last, false, state_);
    for (int level = last - 1; level >= 0; --level) {
      const Plane plane = config_.plane(level);
      const std::string name = "decoders." + std::to_string(last - 1 - level);
      ups_.emplace_back(weights, name + ".up", widths_[level + 1], plane.channels,
                        plane.positions / 2, 3, 1, 2);
      merges_.emplace_back(weights, name + ".merge", 2 * plane.channels, plane.channels,
                           plane.positions, 1);
      units_.emplace_back(weights, name + ".unit", plane);
      if (config.unet)
        primers_.emplace_back(weights, name + ".primer", config_, level, true, state_);
    }
    const Plane top = config_.plane(0);
    head_norm_.emplace(weights, "head_norm", top, 1e-4f);
    head_.emplace(weights, "head", top.channels, 2 * config.channels, top.positions, 3, 1,
                  config.stem_stride);
    weights.end();
  }

  const Config& config() const { return config_; }
  size_t state() const { return state_; }  // floats of a stream's state; it begins as zeros

  // Lay out what one stream needs during a step.
  void lay_out(Arena& arena, Row& row) const {
    const auto plane = [&arena](Plane p) { return arena.take(p.size() + Plane::kMargin) + Plane::kMargin; };
    size_t largest = stem_.scratch();
    for (const auto* convs : {&downs_, &ups_})
      for (const FrameConv& conv : *convs) largest = std::max(largest, conv.scratch());
    largest = std::max(largest, head_->scratch());
    row.spectrum = plane(Plane(2 * config_.channels, config_.bins()));
    row.features = plane(Plane(config_.features(), config_.bins()));
    for (int level = 0; level < config_.levels(); ++level) {
      const Plane p = config_.plane(level);
      row.x.push_back(plane(p));
      if (level < config_.levels() - 1)
        row.joined.push_back(plane(Plane(2 * p.channels, p.positions)));
      row.normed.push_back(plane(p));
      row.memory.push_back(arena.take(config_.token_width));
      // narrow and widen have a row for each value that a token holds of a position
      largest = std::max({largest, p.size(),
                          Plane(config_.token_width / p.positions, p.positions).size()});
    }
    row.one = arena.take(largest + 2 * Plane::kMargin);
    row.other = arena.take(largest + 2 * Plane::kMargin);
    const int token = padded(config_.token_width, Matrix::kTile);
    for (float* Row::*part : {&Row::tokens, &Row::quiet_tokens, &Row::quiet_memory, &Row::attended,
                              &Row::found})
      row.*part = arena.take(token);
    const int inner = config_.token_width * config_.feed_forward;
    row.hidden = arena.take(padded(inner, Matrix::kTile));
    row.used = arena.take_indices(inner + Matrix::kSoon);
    const WindowedAttention& own = primers_.front().own();
    row.query = arena.take(own.projected());
    row.source = arena.take(own.projected());
    row.own_scores = arena.take(own.scores());
    row.skip_scores = arena.take(own.scores());
    row.as_kept = arena.take(own.window_pitch());
    row.weight = arena.take(own.window_pitch());
  }

  // One frame of each stream: row.frame -> row.vocals, row.state goes on.
  void step(Rows rows) const {
    const int last = config_.levels() - 1;
    const size_t scores = primers_.front().own().scores();
    auto unit = units_.begin();
    auto primer = primers_.begin();
    for (Row& row : rows) {
      std::fill_n(row.own_scores, scores, 0.0f);
      std::fill_n(row.skip_scores, scores, 0.0f);
      read(row);
      stem_.apply(row.features, row.x[0], row.one);
    }
    for (int level = 0; level < last; ++level) {
      for (Row& row : rows) unit->apply(row.x[level], row.normed[level], row);
      ++unit;
      if (config_.unet) (primer++)->apply(rows, level);
      const Plane p = config_.plane(level);
      for (Row& row : rows) {
        std::copy_n(row.x[level], p.size() - 2 * Plane::kMargin,
                    row.joined[level] + p.channels * p.pitch);
        downs_[level].apply(row.x[level], row.x[level + 1], row.one);
      }
    }
    for (Row& row : rows) unit->apply(row.x[last], row.normed[last], row);
    ++unit;
    for (int i = 0; i < config_.blocks; ++i) (primer++)->apply(rows, last);
    for (int level = last - 1, i = 0; level >= 0; --level, ++i) {
      for (Row& row : rows) {
        ups_[i].apply(row.x[level + 1], row.joined[level], row.one);
        merges_[i].apply(row.joined[level], row.x[level], row.one);
        unit->apply(row.x[level], row.normed[level], row);
      }
      ++unit;
      if (config_.unet) (primer++)->apply(rows, level);
    }
    for (Row& row : rows) {
      head_norm_->apply(row.x[0], row.normed[0]);
      head_->apply(row.normed[0], row.features, row.one);  // 2 * channels rows of bins
      write(row);
    }
  }

 private:
  // Take the frame apart, and compress it: magnitudes, real parts, imaginary parts.
  void read(Row& row) const {
    const int bins = config_.bins(), channels = config_.channels;
    const Plane p(1, bins);
    const auto spectrum = [&](int channel, int part) {
      return row.spectrum + (2 * channel + part) * p.pitch;
    };
    for (int c = 0; c < channels; ++c) {
      const float* frame = row.frame + size_t(c) * 2 * (bins + 1);
      float *re = spectrum(c, 0), *im = spectrum(c, 1);
      for (int b = 0; b < bins; ++b) {
        re[b] = frame[2 * b];
        im[b] = frame[2 * b + 1];
      }
    }
    const int magnitudes = config_.magnitudes();
    for (int b = 0; b < bins; b += kLanes) {
      const auto put = [&](int feature, Vec v) {
        std::memcpy(row.features + feature * p.pitch + b, &v,
                    std::min(kLanes, bins - b) * sizeof(float));
      };
      const auto magnitude = [&](Vec squares) {
        return exponential(logarithm(squares) * (config_.compression / 2));
      };
      Vec re[2], im[2];
      for (int c = 0; c < channels; ++c) {
        re[c] = load(spectrum(c, 0) + b);
        im[c] = load(spectrum(c, 1) + b);
        const Vec squares = re[c] * re[c] + im[c] * im[c] + 1e-10f;
        const Vec size = magnitude(squares), shrink = size / square_root(squares);
        put(c, size);
        put(magnitudes + c, re[c] * shrink);
        put(magnitudes + channels + c, im[c] * shrink);
      }
      if (channels == 1) continue;
      for (int side = 0; side < 2; ++side) {
        const Vec r = (side ? re[0] - re[1] : re[0] + re[1]) * 0.5f;
        const Vec i = (side ? im[0] - im[1] : im[0] + im[1]) * 0.5f;
        put(2 + side, magnitude(r * r + i * i + 1e-10f));
      }
    }
  }

  // Bound the mask, and let the frame through it. Half the rate holds no vocals.
  void write(Row& row) const {
    const int bins = config_.bins();
    const Plane p(1, bins);
    for (int c = 0; c < config_.channels; ++c) {
      float *re = row.spectrum + 2 * c * p.pitch, *im = re + p.pitch;
      const float *mask_re = row.features + 2 * c * p.pitch, *mask_im = mask_re + p.pitch;
      for (int b = 0; b < bins; b += kLanes) {
        const Vec x = load(mask_re + b), y = load(mask_im + b);
        const Vec scale = tanh_over(square_root(x * x + y * y + 1e-8f));
        const Vec mr = x * scale, mi = y * scale, fr = load(re + b), fi = load(im + b);
        const Vec vr = fr * mr - fi * mi, vi = fr * mi + fi * mr;
        float* to = row.vocals + size_t(c) * 2 * (bins + 1) + 2 * b;
        for (int i = 0; i < std::min(kLanes, bins - b); ++i) {
          to[2 * i] = vr[i];
          to[2 * i + 1] = vi[i];
        }
      }
      float* last = row.vocals + (size_t(c) + 1) * 2 * (bins + 1) - 2;
      last[0] = last[1] = 0.0f;
    }
  }

  Config config_;
  std::vector<int32_t> widths_;
  size_t state_ = 0;
  FrameConv stem_;
  std::vector<FrameUnit> units_;
  std::vector<FramePrimer> primers_;
  std::vector<FrameConv> downs_, ups_, merges_;
  std::optional<FrameNorm> head_norm_;
  std::optional<FrameConv> head_;
};

}  // namespace stemwire
