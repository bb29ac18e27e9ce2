// How the kernels on a CPU go over a tensor: block by block, each with the coefficients of its channels, several threads
// at once, half-precision values by way of a buffer of floats.
#pragma once

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <vector>

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "channel.h"

namespace sync_bn::cpu {

inline constexpr int64_t kBlock = 8192;      // values
inline constexpr int64_t kGrain = 1 << 15;  // values for which another thread is worth it

// At least 16, for the work that each block costs each channel; few enough for float to add them up.
inline int64_t block_rows(const Layout& layout) { return std::clamp<int64_t>(kBlock / layout.channels, 16, 128); }

inline int64_t block_size(const Layout& layout) {
  return layout.channels_last ? block_rows(layout) * layout.channels : kBlock;
}

// A value that stands for an array of it.
template <class A>
struct Uniform {
  A value;
  A operator[](int64_t) const { return value; }
};

// The coefficients of a row of values: of one channel, as Uniform, or of channel after channel, as const A*.
template <class P>
struct Columns {
  P centre, scale, shift, unscale, per_deviation, constant;
};

template <class A>
class Table {
 public:
  Table(const Transform<A>& transform, const Totals& totals, int64_t channels)
      : channels_(channels), values_(6 * channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const Coefficients<A> k(transform, totals, channels, c);
      const A column[] = {k.centre, k.scale, k.shift, k.unscale, k.per_deviation, k.constant};
      for (int64_t i = 0; i < 6; ++i) values_[i * channels + c] = column[i];
    }
  }

  Columns<const A*> all() const { return {at(0), at(1), at(2), at(3), at(4), at(5)}; }

  Columns<Uniform<A>> of(int64_t c) const {
    return {{at(0)[c]}, {at(1)[c]}, {at(2)[c]}, {at(3)[c]}, {at(4)[c]}, {at(5)[c]}};
  }

 private:
  const A* at(int64_t i) const { return values_.data() + i * channels_; }

  int64_t channels_;
  std::vector<A> values_;
};

// Room for the values of a block in the type to compute in; none is needed where they have it already.
template <class T>
class Buffer {
 public:
  using A = Compute<T>;

  explicit Buffer(int64_t size) : values_(std::is_same_v<T, A> ? 0 : size) {}

  const A* widen(const T* x, int64_t count) {
    if constexpr (std::is_same_v<T, A>) {
      return x;
    } else {
      int64_t i = 0;
#ifdef __F16C__
      if constexpr (std::is_same_v<T, c10::Half>) {
        for (; i + 8 <= count; i += 8) {
          const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i));
          _mm256_storeu_ps(values_.data() + i, _mm256_cvtph_ps(halves));
        }
      }
#endif
      for (; i < count; ++i) values_[i] = static_cast<float>(x[i]);
      return values_.data();
    }
  }

  // Where to put results that narrow then takes to y.
  A* target(T* y) {
    if constexpr (std::is_same_v<T, A>) {
      return y;
    } else {
      return values_.data();
    }
  }

  void narrow(int64_t count, T* y) const {
    if constexpr (!std::is_same_v<T, A>) {
      int64_t i = 0;
#ifdef __F16C__
      if constexpr (std::is_same_v<T, c10::Half>) {
        for (; i + 8 <= count; i += 8) {
          const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(values_.data() + i), _MM_FROUND_TO_NEAREST_INT);
          _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), halves);
        }
      }
#endif
      for (; i < count; ++i) y[i] = static_cast<T>(values_[i]);
    }
  }

 private:
  std::vector<A> values_;
};

// Calls run(channel, before, offset, count), made anew for each thread, for the blocks of each plane: before counts the
// channel's values in earlier blocks, offset those of the whole tensor.
template <class Make>
void for_planes(const Layout& layout, const Make& make) {
  const int64_t grain = 1 + kGrain / (1 + layout.rows());
  at::parallel_for(0, layout.channels, grain, [&](int64_t begin, int64_t end) {
    auto run = make();
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t n = 0; n < layout.batch; ++n) {
        for (int64_t start = 0; start < layout.positions; start += kBlock) {
          const int64_t count = std::min(kBlock, layout.positions - start);
          run(c, n * layout.positions + start, (n * layout.channels + c) * layout.positions + start, count);
        }
      }
    }
  });
}

// Calls run(part, before, offset, rows) for the blocks of each part: before counts the part's earlier rows.
template <class Make>
void for_rows(const Layout& layout, const Make& make) {
  const int64_t total = layout.rows(), count = parts(layout), step = block_rows(layout);
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    auto run = make();
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = total * part / count, last = total * (part + 1) / count;
      for (int64_t row = first; row < last; row += step) {
        run(part, row - first, row * layout.channels, std::min(step, last - row));
      }
    }
  });
}

// Calls run(offset, count, width, coefficients) for all blocks of either layout.
template <class A, class Make>
void for_blocks(const Layout& layout, const Table<A>& table, const Make& make) {
  if (layout.channels_last) {
    for_rows(layout, [&] {
      return [&, run = make()](int64_t, int64_t, int64_t offset, int64_t rows) mutable {
        run(offset, rows * layout.channels, layout.channels, table.all());
      };
    });
  } else {
    for_planes(layout, [&] {
      return [&, run = make()](int64_t c, int64_t, int64_t offset, int64_t count) mutable {
        run(offset, count, count, table.of(c));
      };
    });
  }
}

}  // namespace sync_bn::cpu
