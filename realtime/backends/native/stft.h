// The streaming STFT that realtime/stft.py defines.
#pragma once

#include "fourier.h"

namespace stemwire {

// A real signal of 2 M samples is transformed as M complex numbers, even samples the real parts and
// odd ones the imaginary parts. Of their spectrum Z, E = (Z[k] + Z*[M - k]) / 2 is that of the even
// samples and O = (Z[k] - Z*[M - k]) / 2i that of the odd ones; the signal's is E + e^(-i pi k / M) O.
class StreamingStft {
 public:
  // `size` is even and at least two hops. Windows have `size` and 2 * `hop` values.
  StreamingStft(int channels, int size, int hop, int bins, const float* analysis,
                const float* synthesis)
      : channels_(channels),
        size_(size),
        hop_(hop),
        bins_(bins),
        half_(size / 2),
        shared_(std::min(bins, half_ + 1)),
        fourier_(arena_, half_, channels) {
    analysis_ = arena_.take(size);
    std::copy_n(analysis, size, analysis_);
    synthesis_ = arena_.take(size_t(2) * hop);
    for (int i = 0; i < 2 * hop; ++i) synthesis_[i] = synthesis[i] / float(half_);
    turns_ = arena_.take(size_t(2) * (half_ + 1));
    for (int k = 0; k <= half_; ++k) {
      const double angle = 3.141592653589793 * k / half_;
      turns_[2 * k] = float(std::cos(angle));
      turns_[2 * k + 1] = float(std::sin(angle));
    }
    history_ = arena_.take(size_t(channels) * size);
    overlap_ = arena_.take(size_t(channels) * hop);
    spectrum_ = arena_.take(size_t(2) * (half_ + 1));
  }

  // Newest hop (channels, hop) -> spectrum of the window that ends with it, complex (channels, bins).
  // Bins above half the sample rate are not written.
  void analyse(const float* hop, float* frame) {
    const Numbers in = fourier_.input();
    for (int c = 0; c < channels_; ++c) {
      float* past = history_ + size_t(c) * size_;
      std::copy(past + hop_, past + size_, past);
      std::copy_n(hop + size_t(c) * hop_, hop_, past + size_ - hop_);
      for (int n = 0; n < half_; ++n) {
        in.re[n * channels_ + c] = past[2 * n] * analysis_[2 * n];
        in.im[n * channels_ + c] = past[2 * n + 1] * analysis_[2 * n + 1];
      }
    }
    const Numbers found = fourier_.apply();
    for (int c = 0; c < channels_; ++c) {
      float* to = frame + size_t(2) * c * bins_;
      for (int k = 0; k < shared_; ++k) {
        const int here = (k < half_ ? k : 0) * channels_ + c;
        const int there = (k ? half_ - k : 0) * channels_ + c;
        const float even_re = found.re[here] + found.re[there];
        const float even_im = found.im[here] - found.im[there];
        const float odd_re = found.im[here] + found.im[there];
        const float odd_im = found.re[there] - found.re[here];
        const float cosine = turns_[2 * k], sine = turns_[2 * k + 1];
        to[2 * k] = 0.5f * (even_re + cosine * odd_re + sine * odd_im);
        to[2 * k + 1] = 0.5f * (even_im + cosine * odd_im - sine * odd_re);
      }
    }
  }

  // Frame, complex (channels, bins) -> completed samples, (channels, hop).
  void synthesise(const float* frame, float* hop) {
    const Numbers in = fourier_.input();
    for (int c = 0; c < channels_; ++c) {
      std::copy_n(frame + size_t(2) * c * bins_, 2 * shared_, spectrum_);
      spectrum_[1] = spectrum_[2 * half_ + 1] = 0.0f;  // real for a real signal
      for (int k = 0; k < half_; ++k) {
        const float *a = spectrum_ + 2 * k, *b = spectrum_ + 2 * (half_ - k);
        const float part_re = a[0] - b[0], part_im = a[1] + b[1];
        const float cosine = turns_[2 * k], sine = turns_[2 * k + 1];
        const float odd_re = cosine * part_re - sine * part_im;
        const float odd_im = cosine * part_im + sine * part_re;
        // Swapping real and imaginary parts turns the transform into its inverse.
        in.im[k * channels_ + c] = 0.5f * (a[0] + b[0] - odd_im);
        in.re[k * channels_ + c] = 0.5f * (a[1] - b[1] + odd_re);
      }
    }
    const Numbers found = fourier_.apply();
    for (int c = 0; c < channels_; ++c) {
      const auto sample = [&](int n) {
        return (n % 2 ? found.re : found.im)[n / 2 * channels_ + c];
      };
      float *left = overlap_ + size_t(c) * hop_, *done = hop + size_t(c) * hop_;
      for (int i = 0; i < hop_; ++i) {
        const int n = size_ - 2 * hop_ + i;
        done[i] = left[i] + sample(n) * synthesis_[i];
        left[i] = sample(n + hop_) * synthesis_[hop_ + i];
      }
    }
  }

  // Back to silence.
  void reset() {
    std::fill_n(history_, size_t(channels_) * size_, 0.0f);
    std::fill_n(overlap_, size_t(channels_) * hop_, 0.0f);
  }

 private:
  Arena arena_{size_t{64} << 10};
  int channels_, size_, hop_, bins_, half_, shared_;
  Fourier fourier_;
  float *analysis_, *synthesis_, *turns_, *history_, *overlap_, *spectrum_;
};

}  // namespace stemwire
