// The kernels on a CPU. Memory bounds them: each reads its input once, in blocks that stay in the cache while they are
// gone over twice or converted. The compiler vectorises the inner loops, which run over plain arrays of float or double.
#include "cpu_loops.h"

namespace sync_bn::cpu {
namespace {

constexpr int64_t kWidth = 256;  // partial sums of a plane

// Values v in rows of width, the last of which may be shorter: adds up the columns.
template <class A>
void add_columns(const A* __restrict__ v, int64_t count, int64_t width, A* __restrict__ sum) {
  for (int64_t start = 0; start < count; start += width) {
    const int64_t n = std::min(width, count - start);
    for (int64_t j = 0; j < n; ++j) sum[j] += v[start + j];
  }
}

// The same for the deviations from each column's centre, and for their squares.
template <class A, class P>
void add_deviations(const A* __restrict__ v, int64_t count, int64_t width, P centre, A* __restrict__ sum,
                    A* __restrict__ square) {
  for (int64_t start = 0; start < count; start += width) {
    const int64_t n = std::min(width, count - start);
    for (int64_t j = 0; j < n; ++j) {
      const A deviation = v[start + j] - centre[j];
      sum[j] += deviation;
      square[j] += deviation * deviation;
    }
  }
}

// Of kWidth values.
template <class A>
double total(const A* values) {
  constexpr int64_t lanes = 16;
  double sums[lanes] = {};
  for (int64_t i = 0; i < kWidth; i += lanes) {
    for (int64_t j = 0; j < lanes; ++j) sums[j] += values[i + j];
  }
  for (int64_t j = 1; j < lanes; ++j) sums[0] += sums[j];
  return sums[0];
}

template <bool FromOutput, class A, class P>
void add_gradients(const A* __restrict__ grad, const A* __restrict__ saved, int64_t count, int64_t width,
                   const Columns<P>& k, A slope, A* __restrict__ sum, A* __restrict__ product) {
  const A unslope = 1 / slope;
  for (int64_t start = 0; start < count; start += width) {
    const int64_t n = std::min(width, count - start);
    for (int64_t j = 0; j < n; ++j) {
      const Point<A> point = recall<FromOutput>(grad[start + j], saved[start + j], k.centre[j], k.scale[j], k.shift[j],
                                                k.unscale[j], slope, unslope);
      sum[j] += point.d;
      product[j] += point.d * point.deviation;
    }
  }
}

template <class A, class P>
void transform_block(const A* x, int64_t count, int64_t width, const Columns<P>& k, A slope, A* y) {
  for (int64_t start = 0; start < count; start += width) {
    const int64_t n = std::min(width, count - start);
    const A* in = x + start;
    A* out = y + start;
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) out[j] = activate((in[j] - k.centre[j]) * k.scale[j] + k.shift[j], slope);
  }
}

template <bool FromOutput, class A, class P>
void gradient_block(const A* grad, const A* saved, int64_t count, int64_t width, const Columns<P>& k, A slope,
                    A* result) {
  const A unslope = 1 / slope;
  for (int64_t start = 0; start < count; start += width) {
    const int64_t n = std::min(width, count - start);
    const A *g = grad + start, *s = saved + start;
    A* out = result + start;
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) {
      const Point<A> point =
          recall<FromOutput>(g[j], s[j], k.centre[j], k.scale[j], k.shift[j], k.unscale[j], slope, unslope);
      out[j] = k.scale[j] * point.d + k.per_deviation[j] * point.deviation + k.constant[j];
    }
  }
}

// Mean and squared deviations of a block, first about its rounded mean, so that nothing large cancels.
template <class A>
Moments block_moments(const A* v, int64_t count) {
  A sum[kWidth] = {}, square[kWidth] = {};
  add_columns(v, count, kWidth, sum);
  const A centre = static_cast<A>(total(sum) / count);
  std::fill_n(sum, kWidth, A(0));
  add_deviations(v, count, kWidth, Uniform<A>{centre}, sum, square);
  const double rest = total(sum) / count;
  return {centre + rest, total(square) - count * rest * rest, static_cast<double>(count)};
}

template <class T>
void plane_statistics(const T* x, const Layout& layout, double* row) {
  const int64_t channels = layout.channels;
  row[2 * channels] = static_cast<double>(layout.rows());
  for_planes(layout, [&] {
    return [&, buffer = Buffer<T>(block_size(layout))](int64_t c, int64_t before, int64_t offset,
                                                       int64_t count) mutable {
      Moments moments{row[c], row[channels + c], static_cast<double>(before)};
      moments.merge(block_moments(buffer.widen(x + offset, count), count));
      row[c] = moments.mean;
      row[channels + c] = moments.square;
    };
  });
}

template <class T>
void row_statistics(const T* x, const Layout& layout, double* partial) {
  using A = Compute<T>;
  const int64_t channels = layout.channels;
  for_rows(layout, [&] {
    return [&, buffer = Buffer<T>(block_size(layout)), centre = std::vector<A>(channels),
            sum = std::vector<A>(channels), square = std::vector<A>(channels)](int64_t part, int64_t before,
                                                                               int64_t offset, int64_t rows) mutable {
      double* row = partial + part * (2 * channels + 1);
      const A* v = buffer.widen(x + offset, rows * channels);
      std::fill(sum.begin(), sum.end(), A(0));
      std::fill(square.begin(), square.end(), A(0));
      add_columns(v, rows * channels, channels, sum.data());
      for (int64_t c = 0; c < channels; ++c) {
        centre[c] = sum[c] / rows;
        sum[c] = 0;
      }
      add_deviations(v, rows * channels, channels, static_cast<const A*>(centre.data()), sum.data(), square.data());
      const double count = static_cast<double>(before), share = static_cast<double>(rows) / (count + rows);
      for (int64_t c = 0; c < channels; ++c) {
        const double rest = static_cast<double>(sum[c]) / rows, delta = centre[c] + rest - row[c];
        row[c] += delta * share;
        row[channels + c] += square[c] - rows * rest * rest + delta * delta * count * share;
      }
      row[2 * channels] = count + rows;
    };
  });
}

// Adds up a channel's or, by rows, a part's blocks; partial is [parts, 2, C].
template <bool FromOutput, class T>
void add_sums(const T* grad, const T* saved, const Layout& layout, const Transform<Compute<T>>& transform,
              double* partial) {
  using A = Compute<T>;
  const int64_t channels = layout.channels, width = layout.channels_last ? channels : kWidth;
  const Table<A> table(transform, Totals{}, channels);
  const auto make = [&](auto add) {
    return [&, add, left = Buffer<T>(block_size(layout)), right = Buffer<T>(block_size(layout)),
            sum = std::vector<A>(width),
            product = std::vector<A>(width)](int64_t index, int64_t, int64_t offset, int64_t size) mutable {
      std::fill(sum.begin(), sum.end(), A(0));
      std::fill(product.begin(), product.end(), A(0));
      const int64_t count = layout.channels_last ? size * channels : size;
      const A *g = left.widen(grad + offset, count), *s = right.widen(saved + offset, count);
      add(index, g, s, count, sum.data(), product.data());
    };
  };
  if (layout.channels_last) {
    for_rows(layout, [&] {
      return make([&](int64_t part, const A* g, const A* s, int64_t count, A* sum, A* product) {
        add_gradients<FromOutput>(g, s, count, width, table.all(), transform.slope, sum, product);
        double* row = partial + part * 2 * channels;
        for (int64_t c = 0; c < channels; ++c) row[c] += sum[c];
        for (int64_t c = 0; c < channels; ++c) row[channels + c] += product[c];
      });
    });
  } else {
    for_planes(layout, [&] {
      return make([&](int64_t c, const A* g, const A* s, int64_t count, A* sum, A* product) {
        add_gradients<FromOutput>(g, s, count, width, table.of(c), transform.slope, sum, product);
        partial[c] += total(sum);
        partial[channels + c] += total(product);
      });
    });
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t part = 0; part < parts(layout); ++part) {
      double* row = partial + part * 2 * channels;
      row[channels + c] = normalised_sum(transform, c, row[c], row[channels + c]);
    }
  }
}

template <bool FromOutput, class T>
void write_gradient(const T* grad, const T* saved, const Layout& layout, const Transform<Compute<T>>& transform,
                    const Totals& totals, T* result) {
  using A = Compute<T>;
  const Table<A> table(transform, totals, layout.channels);
  for_blocks(layout, table, [&] {
    return [&, left = Buffer<T>(block_size(layout)), right = Buffer<T>(block_size(layout))](
               int64_t offset, int64_t count, int64_t width, const auto& k) mutable {
      const A *g = left.widen(grad + offset, count), *s = right.widen(saved + offset, count);
      gradient_block<FromOutput>(g, s, count, width, k, transform.slope, left.target(result + offset));
      left.narrow(count, result + offset);
    };
  });
}

}  // namespace

int64_t parts(const Layout& layout) {
  const int64_t useful = 1 + layout.rows() * layout.channels / kGrain;
  return layout.channels_last ? std::min<int64_t>(at::get_num_threads(), useful) : 1;
}

template <class T>
void statistics(const T* x, const Layout& layout, double* partial, Stream) {
  std::fill_n(partial, parts(layout) * (2 * layout.channels + 1), 0.0);
  if (layout.channels_last) {
    row_statistics(x, layout, partial);
  } else {
    plane_statistics(x, layout, partial);
  }
}

void merge(const double* rows, int64_t count, int64_t channels, double* row, Stream) {
  const int64_t size = 2 * channels + 1;
  for (int64_t c = 0; c < channels; ++c) {
    Moments moments{};
    for (int64_t r = 0; r < count; ++r) moments.merge(moments_of(rows + r * size, channels, c));
    row[c] = moments.mean;
    row[channels + c] = moments.square;
    row[2 * channels] = moments.count;
  }
}

template <class R>
void finish(const double* rows, int64_t count, int64_t channels, double eps, const Running<R>& running, double* mean,
            double* invstd, double* total, Stream) {
  const int64_t size = 2 * channels + 1;
  for (int64_t c = 0; c < channels; ++c) {
    Moments moments{};
    for (int64_t r = 0; r < count; ++r) moments.merge(moments_of(rows + r * size, channels, c));
    mean[c] = moments.mean;
    invstd[c] = moments.invstd(eps);
    *total = moments.count;
    update(running, moments, c);
  }
}

template <class T>
void normalise(const T* x, const Layout& layout, const Transform<Compute<T>>& transform, T* y, Stream) {
  const Table<Compute<T>> table(transform, Totals{}, layout.channels);
  for_blocks(layout, table, [&] {
    return [&, buffer = Buffer<T>(block_size(layout))](int64_t offset, int64_t count, int64_t width,
                                                       const auto& k) mutable {
      const auto* v = buffer.widen(x + offset, count);
      transform_block(v, count, width, k, transform.slope, buffer.target(y + offset));
      buffer.narrow(count, y + offset);
    };
  });
}

template <class T>
void sums(const T* grad, const T* saved, bool from_output, const Layout& layout,
          const Transform<Compute<T>>& transform, double* partial, Stream) {
  std::fill_n(partial, parts(layout) * 2 * layout.channels, 0.0);
  const auto run = from_output ? add_sums<true, T> : add_sums<false, T>;
  run(grad, saved, layout, transform, partial);
}

template <class T>
void input_gradient(const T* grad, const T* saved, bool from_output, const Layout& layout,
                    const Transform<Compute<T>>& transform, const Totals& totals, T* result, Stream) {
  const auto run = from_output ? write_gradient<true, T> : write_gradient<false, T>;
  run(grad, saved, layout, transform, totals, result);
}

SYNC_BN_INSTANTIATE

}  // namespace sync_bn::cpu
