// The network of model/primer.py and model/separator.py, one frame of each of several streams.
#pragma once

#include <optional>

#include "attention.h"

namespace stemwire {

// Configuration as in model/config.py, validated by the caller.
struct Config {
  int32_t stack, unet;  // variant; neither means `bridge`
  int32_t channels, analysis_window, lookahead, units, expansion;
  int32_t token_width, heads, window, feed_forward, blocks, taps;
  float compression;
  int32_t widths_count, bands_count;
  const int32_t *widths, *bands;  // `bands` in pairs

  int levels() const { return stack ? 1 : widths_count; }
  int bins() const { return analysis_window / 2; }
  Sheet sheet(int level) const {
    int positions = 0;
    for (int g = 0; g < bands_count; ++g) positions += bands[2 * g];
    return Sheet(positions >> level, widths[level]);
  }
  int magnitudes() const { return channels == 1 ? 1 : 4; }  // left, right, mid, side
  int features() const { return magnitudes() + 2 * channels; }
  int pitch() const { return padded(bins()); }                // floats of one feature, padded
  int frame() const { return channels * 2 * (bins() + 1); }   // floats of a frame
  int before() const { return taps - 1 + lookahead; }         // past mixture frames that are kept

  // Frames after the one separated whose features decoders see: powers of two, then the newest.
  std::vector<int> ahead() const {
    std::vector<int> found;
    for (int k = 1; k < lookahead; k *= 2) found.push_back(k);
    if (lookahead) found.push_back(lookahead);
    return found;
  }
};

class FramePrimer {
 public:
  FramePrimer(Weights& weights, const std::string& name, const Config& config, int level,
              bool decoder, size_t& state)
      : sheet_(config.sheet(level)),
        width_(config.token_width),
        inner_(config.token_width * config.feed_forward),
        depth_(config.token_width / sheet_.rows),
        norm_(weights, name + ".norm", sheet_, 1e-4f),
        narrow_(weights, name + ".narrow", sheet_.rows, sheet_.width, depth_),
        widen_(weights, name + ".widen", sheet_.rows, depth_, sheet_.width),
        own_norm_(weights, name + ".own_norm", width_, 1e-5f),
        own_(weights, name + ".own", width_, config.heads, config.window, false, state),
        feed_norm_(weights, name + ".feed_norm", width_, 1e-5f),
        inner_matrix_(linear(weights, name + ".feed.inner", width_, inner_)),
        out_matrix_(linear(weights, name + ".feed.out", inner_, width_)) {
    if (!decoder) return;
    skip_norm_.emplace(weights, name + ".skip_norm", width_, 1e-5f);
    memory_norm_.emplace(weights, name + ".memory_norm", width_, 1e-5f);
    skip_.emplace(weights, name + ".skip", width_, config.heads, config.window + config.lookahead,
                  true, state);
  }

  const WindowedAttention& own() const { return own_; }

  // Adds its output to each row.x[level]; a decoder reads row.memory[level], an encoder writes it.
  void apply(Rows rows, int level) const {
    for (Row& row : rows) {
      norm_.apply(row.x[level], row.one);
      narrow_.apply(row.one, row.other);
      for (int p = 0; p < sheet_.rows; ++p)
        std::copy_n(row.other + p * narrow_.out().pitch, depth_, row.tokens + p * depth_);
      own_norm_.apply(row.tokens, row.normed_tokens);
    }
    own_.apply(rows, &Row::own_scores);
    for (Row& row : rows) add(row.tokens, row.attended, width_);
    if (skip_) {
      for (Row& row : rows) {
        skip_norm_->apply(row.tokens, row.normed_tokens);
        memory_norm_->apply(row.memory[level], row.normed_memory);
      }
      skip_->apply(rows, &Row::skip_scores);
      for (Row& row : rows) add(row.tokens, row.attended, width_);
    }
    feed(rows);
    for (Row& row : rows) {
      if (!skip_) std::copy_n(row.tokens, width_, row.memory[level]);
      for (int p = 0; p < sheet_.rows; ++p)
        std::copy_n(row.tokens + p * depth_, depth_, row.one + p * narrow_.out().pitch);
      widen_.apply(row.one, row.other);
      add(row.x[level], row.other, sheet_.size());
    }
  }

 private:
  void feed(Rows rows) const {
    for (Row& row : rows) feed_norm_.apply(row.tokens, row.normed_tokens);
    inner_matrix_.apply(rows.count, rows.pick(&Row::normed_tokens).data(), rows.pick(&Row::hidden).data());
    for (Row& row : rows) {
      for (int i = 0; i < inner_; i += kLanes) {
        const Vec v = greater_of(load(row.hidden + i), Vec{});
        store(row.hidden + i, v * v);
      }
      int count = 0;  // few are above zero: four of five weights need not be loaded
      for (int i = 0; i < inner_; ++i) {
        row.used[count] = i;
        count += row.hidden[i] != 0.0f;
      }
      std::fill_n(row.used + count, Matrix::kPrefetchDistance, 0);
      out_matrix_.apply_to(row.used, count, row.hidden, row.found);
      add(row.tokens, row.found, width_);
    }
  }

  Sheet sheet_;
  int width_, inner_, depth_;
  FrameNorm norm_;
  RowLinear narrow_, widen_;
  FrameNorm own_norm_;
  WindowedAttention own_;
  FrameNorm feed_norm_;
  Matrix inner_matrix_, out_matrix_;
  std::optional<FrameNorm> skip_norm_, memory_norm_;
  std::optional<WindowedAttention> skip_;
};

// What decoders see of one level with look-ahead: a frame, and those that came after it.
class After {
 public:
  After(Weights& weights, const std::string& name, const Config& config, int level, size_t& state)
      : sheet_(config.sheet(level)),
        lookahead_(config.lookahead),
        ahead_(config.ahead()),
        wide_(sheet_.rows, int(ahead_.size()) * sheet_.width),
        linear_(weights, name + ".linear", sheet_.rows, wide_.width, sheet_.width, false),
        place_(state) {
    state += size_t(lookahead_) * sheet_.size();
  }

  const Sheet& wide() const { return wide_; }

  // x, the newest frame's features, becomes the separated frame's; `added` what others add to it.
  void apply(Row& row, float* x, float* added) const {
    for (size_t i = 0; i < ahead_.size(); ++i) {
      const float* from = ahead_[i] == lookahead_ ? x : ring(row, row.age + ahead_[i]);
      for (int p = 0; p < sheet_.rows; ++p)
        std::copy_n(from + p * sheet_.pitch, sheet_.width,
                    row.one + p * wide_.pitch + i * sheet_.width);
    }
    linear_.apply(row.one, added);
    std::swap_ranges(x, x + sheet_.size(), ring(row, row.age));
  }

 private:
  // A frame lies at its age; the oldest, where the newest will.
  float* ring(const Row& row, int64_t age) const {
    return row.state + place_ + size_t(age % lookahead_) * sheet_.size();
  }

  Sheet sheet_;
  int lookahead_;
  std::vector<int> ahead_;
  Sheet wide_;
  RowLinear linear_;
  size_t place_;
};

class Separator {
 public:
  // Throws std::invalid_argument if weights are missing or have another size.
  Separator(const Config& config, Weights& weights)
      : widths_(config.widths, config.widths + config.widths_count),
        pairs_(config.bands, config.bands + 2 * config.bands_count),
        config_(owning_lists(config)),
        bands_(config_.bands, config_.bands_count),
        state_(size_t(config.before()) * config.frame()),
        stem_(weights, "stem", bands_, config.features(), config.pitch(), config_.sheet(0)) {
    const int last = config.levels() - 1;
    const auto units = [&](const std::string& name, int level) {
      for (int i = 0; i < config.units; ++i)
        units_.emplace_back(weights, name + ".parts." + std::to_string(i), config_.sheet(level),
                            config.expansion, state_);
    };
    for (int level = 0; level < last; ++level) {
      const Sheet sheet = config_.sheet(level);
      const std::string name = "encoders." + std::to_string(level);
      units(name + ".units", level);
      if (config.unet)
        primers_.emplace_back(weights, name + ".primer", config_, level, false, state_);
      downs_.emplace_back(weights, name + ".down", sheet.rows / 2, 2 * sheet.width,
                          widths_[level + 1]);
    }
    units("bottom_units", last);
    for (int i = 0; i < config.blocks; ++i)
      primers_.emplace_back(weights, "bottom." + std::to_string(i), config_, last, false, state_);
    if (config.lookahead) afters_.emplace_back(weights, "after", config_, last, state_);
    for (int level = last - 1; level >= 0; --level) {
      const Sheet sheet = config_.sheet(level);
      const std::string name = "decoders." + std::to_string(last - 1 - level);
      ups_.emplace_back(weights, name + ".up", sheet.rows / 2, widths_[level + 1],
                        2 * sheet.width);
      merges_.emplace_back(weights, name + ".merge", sheet.rows, sheet.width, sheet.width);
      if (config.lookahead) afters_.emplace_back(weights, name + ".after", config_, level, state_);
      units(name + ".units", level);
      if (config.unet)
        primers_.emplace_back(weights, name + ".primer", config_, level, true, state_);
    }
    const Sheet top = config_.sheet(0);
    head_unit_.emplace(weights, "head_unit", top, config.expansion, state_);
    head_norm_.emplace(weights, "head_norm", top, 1e-4f);
    head_.emplace(weights, "head", bands_, top, 2 * config.channels * config.taps,
                  config.pitch());
    weights.end();
  }

  const Config& config() const { return config_; }
  size_t state() const { return state_; }  // floats of a stream's state, which starts as zeros

  // Allocate the scratch memory of one stream in a step.
  void allocate(Arena& arena, Row& row) const {
    row.features = arena.take(size_t(config_.features()) * config_.pitch());
    const int factors = 2 * config_.channels * config_.taps;
    row.filters = arena.take(size_t(factors) * config_.pitch());
    const int values = std::max({config_.features(), factors}) * bands_.widest;
    row.band = arena.take(padded(values, Matrix::kTile));
    size_t largest = 0;
    int widest = padded(config_.token_width, Matrix::kTile);
    for (int level = 0; level < config_.levels(); ++level) {
      const Sheet sheet = config_.sheet(level);
      row.x.push_back(arena.take(sheet.size()));
      row.skip.push_back(arena.take(sheet.size()));
      row.memory.push_back(arena.take(padded(config_.token_width, Matrix::kTile)));
      widest = std::max(widest, padded(sheet.width, Matrix::kTile));
      const int depth = config_.token_width / sheet.rows;
      for (int width : {config_.expansion * sheet.width, 2 * sheet.width, depth})
        largest = std::max(largest, Sheet(sheet.rows, width).size());
    }
    for (const After& after : afters_) largest = std::max(largest, after.wide().size());
    row.one = arena.take(largest);
    row.other = arena.take(largest);
    for (float* Row::*part : {&Row::tokens, &Row::normed_tokens, &Row::normed_memory, &Row::attended,
                              &Row::found})
      row.*part = arena.take(widest);
    const int inner = config_.token_width * config_.feed_forward;
    row.hidden = arena.take(padded(inner, Matrix::kTile));
    row.used = arena.take_indices(inner + Matrix::kPrefetchDistance);
    const WindowedAttention& own = primers_.front().own();
    row.query = arena.take(own.projected());
    row.source = arena.take(own.projected());
    const int longest = padded(config_.window + config_.lookahead);  // a decoder's window
    row.own_scores = arena.take(own.scores());
    row.skip_scores = arena.take(size_t(config_.heads) * longest);
    row.ring_scores = arena.take(longest);
    row.weight = arena.take(longest);
  }

  // Step one frame of each stream: row.frame -> row.vocals; updates row.state.
  void step(Rows rows) const {
    const int last = config_.levels() - 1;
    const size_t own_scores = primers_.front().own().scores();
    const size_t skip_scores = size_t(config_.heads) * padded(config_.window + config_.lookahead);
    auto unit = units_.begin();
    auto primer = primers_.begin();
    const auto units = [&](int level) {
      for (int i = 0; i < config_.units; ++i, ++unit)
        for (Row& row : rows) unit->apply(row, row.x[level]);
    };
    for (Row& row : rows) {
      std::fill_n(row.own_scores, own_scores, 0.0f);
      std::fill_n(row.skip_scores, skip_scores, 0.0f);
      compress(row.frame, row.features);
      stem_.apply(row.features, row.x[0], row);
    }
    for (int level = 0; level < last; ++level) {
      units(level);
      if (config_.unet) (primer++)->apply(rows, level);
      const Sheet sheet = config_.sheet(level);
      for (Row& row : rows) {
        std::copy_n(row.x[level], sheet.size(), row.skip[level]);
        // Two neighbouring positions, concatenated without their padding, form a row.
        const Sheet pair(sheet.rows / 2, 2 * sheet.width);
        for (int p = 0; p < sheet.rows; ++p)
          std::copy_n(row.x[level] + p * sheet.pitch, sheet.width,
                      row.one + p / 2 * pair.pitch + p % 2 * sheet.width);
        downs_[level].apply(row.one, row.x[level + 1]);
      }
    }
    units(last);
    for (int i = 0; i < config_.blocks; ++i) (primer++)->apply(rows, last);
    for (Row& row : rows) {
      std::fill_n(row.own_scores, own_scores, 0.0f);  // decoders may be at another frame
      if (!config_.lookahead) continue;
      afters_[0].apply(row, row.x[last], row.other);
      add(row.x[last], row.other, config_.sheet(last).size());
    }
    for (int level = last - 1, i = 0; level >= 0; --level, ++i) {
      const Sheet sheet = config_.sheet(level), pair(sheet.rows / 2, 2 * sheet.width);
      for (Row& row : rows) {
        if (config_.lookahead) afters_[size_t(i) + 1].apply(row, row.skip[level], row.other);
        merges_[i].apply(row.skip[level], row.x[level]);
        if (config_.lookahead) add(row.x[level], row.other, sheet.size());
        ups_[i].apply(row.x[level + 1], row.other);
        for (int p = 0; p < sheet.rows; ++p)
          add(row.x[level] + p * sheet.pitch,
              row.other + p / 2 * pair.pitch + p % 2 * sheet.width, sheet.width);
      }
      units(level);
      if (config_.unet) (primer++)->apply(rows, level);
    }
    for (Row& row : rows) {
      head_unit_->apply(row, row.x[0]);
      head_norm_->apply(row.x[0], row.one);
      head_->apply(row.one, row.filters, row);
      filter(row);
      if (config_.before())
        std::copy_n(row.frame, config_.frame(), row.state + ring_offset(row.age));
    }
  }

 private:
  // Copy of the configuration whose lists are owned by this object.
  Config owning_lists(Config config) const {
    config.widths = widths_.data();
    config.bands = pairs_.data();
    return config;
  }

  // Offset in the ring of past frames of the frame with a given age.
  size_t ring_offset(int64_t age) const {
    return size_t(age % config_.before()) * config_.frame();
  }

  // Mixture frame `ago` frames before this one; zeros before the start of the stream.
  const float* mixture_frame(const Row& row, int ago) const {
    if (ago <= row.earlier) return (&row)[-ago].frame;  // not in the ring yet
    return row.state + ring_offset(row.age - ago + config_.before());
  }

  // Compressed frame, the network's input: magnitudes, real parts, imaginary parts.
  void compress(const float* frame, float* features) const {
    const int bins = config_.bins(), channels = config_.channels, pitch = config_.pitch();
    const int magnitudes = config_.magnitudes();
    for (int b = 0; b < bins; b += kLanes) {
      const auto write_feature = [&](int feature, Vec v) { store(features + feature * pitch + b, v); };
      const auto magnitude = [&](Vec squares) {
        return exponential(logarithm(squares) * (config_.compression / 2));
      };
      Vec re[2], im[2];
      for (int c = 0; c < channels; ++c) {
        take(frame + size_t(c) * 2 * (bins + 1) + 2 * b, std::min(kLanes, bins - b), re[c], im[c]);
        const Vec squares = re[c] * re[c] + im[c] * im[c] + 1e-10f;
        const Vec size = magnitude(squares), shrink = size / square_root(squares);
        write_feature(c, size);
        write_feature(magnitudes + 2 * c, re[c] * shrink);
        write_feature(magnitudes + 2 * c + 1, im[c] * shrink);
      }
      if (channels == 1) continue;
      for (int side = 0; side < 2; ++side) {
        const Vec r = (side ? re[0] - re[1] : re[0] + re[1]) * 0.5f;
        const Vec i = (side ? im[0] - im[1] : im[0] + im[1]) * 0.5f;
        write_feature(2 + side, magnitude(r * r + i * i + 1e-10f));
      }
    }
  }

  // Bound the factors and filter the frames with them. The Nyquist bin gets no vocals.
  void filter(Row& row) const {
    const int bins = config_.bins(), channels = config_.channels, pitch = config_.pitch();
    for (int c = 0; c < channels; ++c) {
      float* vocals = row.vocals + size_t(c) * 2 * (bins + 1);
      for (int b = 0; b < bins; b += kLanes) {
        const int count = std::min(kLanes, bins - b);
        Vec sum_re = {}, sum_im = {};
        for (int tap = 0; tap < config_.taps; ++tap) {
          const float* frame = mixture_frame(row, config_.lookahead + tap);
          Vec re, im;
          take(frame + size_t(c) * 2 * (bins + 1) + 2 * b, count, re, im);
          const float* factor = row.filters + size_t(2 * (tap * channels + c)) * pitch + b;
          const Vec mr = hyperbolic_tangent(load(factor));
          const Vec mi = hyperbolic_tangent(load(factor + pitch));
          sum_re += re * mr - im * mi;
          sum_im += re * mi + im * mr;
        }
        put(vocals + 2 * b, count, sum_re, sum_im);
      }
      vocals[2 * bins] = vocals[2 * bins + 1] = 0.0f;
    }
  }

  // Load interleaved complex numbers as real and imaginary parts.
  static void take(const float* pairs, int count, Vec& re, Vec& im) {
    if (count == kLanes) return deinterleave(load(pairs), load(pairs + kLanes), re, im);
    re = im = Vec{};
    for (int i = 0; i < count; ++i) {
      re[i] = pairs[2 * i];
      im[i] = pairs[2 * i + 1];
    }
  }

  // The inverse of `take`.
  static void put(float* pairs, int count, Vec re, Vec im) {
    if (count == kLanes) {
      Vec low, high;
      interleave(re, im, low, high);
      store(pairs, low);
      return store(pairs + kLanes, high);
    }
    for (int i = 0; i < count; ++i) {
      pairs[2 * i] = re[i];
      pairs[2 * i + 1] = im[i];
    }
  }

  std::vector<int32_t> widths_, pairs_;
  Config config_;
  Bands bands_;
  size_t state_;  // begins with the ring of the mixture's frames
  BandLinear stem_;
  std::vector<After> afters_;  // the bottom's, then the decoders'
  std::vector<FrameUnit> units_;
  std::vector<FramePrimer> primers_;
  std::vector<RowLinear> downs_, ups_, merges_;
  std::optional<FrameUnit> head_unit_;
  std::optional<FrameNorm> head_norm_;
  std::optional<BandExpand> head_;
};

}  // namespace stemwire
