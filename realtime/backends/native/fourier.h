// The discrete Fourier transform.
#pragma once

#include <cmath>
#include <utility>

#include "dense.h"

namespace stemwire {

// Eight complex numbers.
struct Complex {
  Vec re, im;

  Complex operator+(Complex o) const { return {re + o.re, im + o.im}; }
  Complex operator-(Complex o) const { return {re - o.re, im - o.im}; }
  Complex times(const float* w) const {
    return {re * w[0] - im * w[1], re * w[1] + im * w[0]};
  }
};

// Complex numbers as separate real and imaginary parts.
struct Numbers {
  float *re, *im;

  Complex at(size_t i) const { return {load(re + i), load(im + i)}; }

  // The first `count` of eight.
  void put(size_t i, Complex value, int count) const {
    store_first(re + i, value.re, count);
    store_first(im + i, value.im, count);
  }
};

// Transform of several sequences at once: element n of sequence s is at n * sequences + s.
//
// Stockham, "High-speed convolution and correlation", AFIPS 1966: each stage reads one array and
// writes another, in an order that ends up sorted. Radix 4 as often as 4 divides the size, then the
// remaining primes. Only the first stages have vectors that are not full.
class Fourier {
 public:
  Fourier(Arena& arena, int size, int sequences) {
    for (Numbers& numbers : numbers_)
      for (float** part : {&numbers.re, &numbers.im})  // whole vectors are read
        *part = arena.take(size_t(size) * sequences + kLanes);
    const auto turn = [](float* to, double circles) {
      to[0] = float(std::cos(kCircle * circles));
      to[1] = float(-std::sin(kCircle * circles));
    };
    for (int length = size, stride = sequences; length > 1;) {
      int radix = 4;
      if (length % 4)
        for (radix = 2; length % radix;) ++radix;
      const int part = length / radix;
      Stage stage{radix, part, stride, arena.take(size_t(2) * part * (radix - 1)), nullptr};
      float* next = stage.turns;
      for (int p = 0; p < part; ++p)
        for (int k = 1; k < radix; ++k, next += 2) turn(next, double(p) * k / length);
      if (radix != 4) {
        stage.roots = arena.take(size_t(2) * radix);
        for (int i = 0; i < radix; ++i) turn(stage.roots + 2 * i, double(i) / radix);
      }
      stages_.push_back(stage);
      length = part;
      stride *= radix;
    }
  }

  // Input, to be filled before `apply`.
  Numbers input() const { return numbers_[0]; }

  // Transforms the input, which is overwritten. The result is valid until the next input.
  Numbers apply() const {
    Numbers from = numbers_[0], to = numbers_[1];
    for (const Stage& stage : stages_) {
      if (stage.radix == 4)
        apply_radix_4(stage, from, to);
      else
        apply_radix(stage, from, to);
      std::swap(from, to);
    }
    return from;
  }

 private:
  static constexpr double kCircle = 6.283185307179586;

  struct Stage {
    int radix, part, stride;
    float *turns, *roots;
  };

  static void apply_radix_4(const Stage& stage, Numbers from, Numbers to) {
    const int stride = stage.stride, far = stage.part * stride;
    const float* turns = stage.turns;
    for (int p = 0; p < stage.part; ++p, turns += 6)
      for (int q = 0; q < stride; q += kLanes) {
        const int at = p * stride + q, left = stride - q;
        const Complex a = from.at(at), b = from.at(at + far), c = from.at(at + 2 * far),
                      d = from.at(at + 3 * far);
        const Complex ac = a + c, bd = b + d, a_c = a - c, b_d = b - d;
        const Complex quarter = {b_d.im, -b_d.re};  // by -i
        const int there = 4 * p * stride + q;
        to.put(there, ac + bd, left);
        to.put(there + stride, (a_c + quarter).times(turns), left);
        to.put(there + 2 * stride, (ac - bd).times(turns + 2), left);
        to.put(there + 3 * stride, (a_c - quarter).times(turns + 4), left);
      }
  }

  static void apply_radix(const Stage& stage, Numbers from, Numbers to) {
    const int radix = stage.radix, stride = stage.stride, far = stage.part * stride;
    const float* turns = stage.turns;
    for (int p = 0; p < stage.part; ++p, turns += 2 * (radix - 1))
      for (int q = 0; q < stride; q += kLanes)
        for (int k = 0; k < radix; ++k) {
          const int at = p * stride + q;
          Complex sum = from.at(at);
          for (int j = 1, root = k; j < radix; ++j) {
            sum = sum + from.at(at + j * far).times(stage.roots + 2 * root);
            root += k;
            if (root >= radix) root -= radix;
          }
          if (k) sum = sum.times(turns + 2 * (k - 1));
          to.put((radix * p + k) * stride + q, sum, stride - q);
        }
  }

  Numbers numbers_[2];
  std::vector<Stage> stages_;
};

}  // namespace stemwire
