// The kernels on a GPU. Memory bounds them: values are read and written in packs, no more often than needed. Reductions
// leave a row of partial results for each part, which a second, small kernel adds up.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "cuda_loops.cuh"

namespace sync_bn::cuda {
namespace {

constexpr int64_t kBlocks = 1024;  // channels-last: blocks of a reduction, at most; about what a GPU holds at once
constexpr int kUnroll = 4;         // channels-last: rows that a thread reads at once
constexpr int kMergeChannels = 8, kMergeRows = 64;

cudaStream_t as_stream(Stream stream) { return static_cast<cudaStream_t>(stream); }

// The moments of a thread's values. They count from the first of them, so that float suffices however large the mean is.
template <class A>
struct ThreadMoments {
  A origin = 0, mean = 0, square = 0;
  int count = 0;

  template <int N>
  __device__ void add(const A (&values)[N]) {
    if (count == 0) origin = values[0];
    A own = 0, own_square = 0;
    for (int i = 0; i < N; ++i) own += values[i] - origin;
    own /= N;
    for (int i = 0; i < N; ++i) own_square += (values[i] - origin - own) * (values[i] - origin - own);
    const A share = A(N) / A(count + N), delta = own - mean;
    mean += delta * share;
    square += own_square + delta * delta * A(count) * share;
    count += N;
  }

  __device__ operator Moments() const { return {static_cast<double>(origin) + mean, square, double(count)}; }
};

struct Pair {
  double sum, product;

  __device__ void merge(const Pair& other) {
    sum += other.sum;
    product += other.product;
  }
};

template <class A>
struct ThreadSums {
  A sum = 0, product = 0;

  __device__ void add(const Point<A>& point) {
    sum += point.d;
    product += point.d * point.deviation;
  }

  __device__ operator Pair() const { return {sum, product}; }
};

// Row of [parts, 2C + 1].
__device__ void write_moments(double* row, int64_t channels, int64_t c, const Moments& moments) {
  row[c] = moments.mean;
  row[channels + c] = moments.square;
  if (c == 0) row[2 * channels] = moments.count;
}

template <int N, class T>
__global__ void plane_statistics(const T* x, Planes planes, double* partial) {
  using A = Compute<T>;
  __shared__ Moments shared[kThreads];
  ThreadMoments<A> own;
  planes.for_packs<N>([&](int64_t i, auto size) {
    constexpr int n = decltype(size)::value;
    const Pack<T, n> pack = load<n>(x + i);
    A values[n];
    for (int j = 0; j < n; ++j) values[j] = static_cast<A>(pack.values[j]);
    own.add(values);
  });
  const Moments merged = merge_columns<Moments>(own, shared);
  if (threadIdx.y == 0) {
    write_moments(partial + planes.part() * (2 * planes.channels + 1), planes.channels, planes.channel(), merged);
  }
}

template <int N, class T>
__global__ void row_statistics(const T* x, Rows rows, double* partial) {
  using A = Compute<T>;
  __shared__ Moments shared[kThreads];
  const int64_t c = rows.channel(), step = rows.step();
  const bool is_active = c < rows.channels;
  ThreadMoments<A> own[N];
  int64_t row = is_active ? rows.first() : rows.rows;
  for (; row + (kUnroll - 1) * step < rows.rows; row += kUnroll * step) {
    Pack<T, N> packs[kUnroll];
    for (int k = 0; k < kUnroll; ++k) packs[k] = load<N>(x + (row + k * step) * rows.channels + c);
    for (int j = 0; j < N; ++j) {
      A values[kUnroll];
      for (int k = 0; k < kUnroll; ++k) values[k] = static_cast<A>(packs[k].values[j]);
      own[j].add(values);
    }
  }
  for (; row < rows.rows; row += step) {
    const Pack<T, N> pack = load<N>(x + row * rows.channels + c);
    for (int j = 0; j < N; ++j) {
      const A values[] = {static_cast<A>(pack.values[j])};
      own[j].add(values);
    }
  }
  for (int j = 0; j < N; ++j) {
    const Moments merged = merge_columns<Moments>(own[j], shared);
    if (is_active && threadIdx.y == 0) {
      write_moments(partial + rows.part() * (2 * rows.channels + 1), rows.channels, c + j, merged);
    }
  }
}

// Row of [parts, 2, C].
template <class A>
__device__ void write_sums(double* row, const Transform<A>& transform, int64_t channels, int64_t c, const Pair& pair) {
  row[c] = pair.sum;
  row[channels + c] = normalised_sum(transform, c, pair.sum, pair.product);
}

template <bool FromOutput, class A>
__device__ Point<A> recall_value(A grad, A saved, const Coefficients<A>& k, A slope) {
  return recall<FromOutput>(grad, saved, k.centre, k.scale, k.shift, k.unscale, slope, 1 / slope);
}

template <bool FromOutput, int N, class T>
__global__ void plane_sums(const T* grad, const T* saved, Planes planes, Transform<Compute<T>> transform,
                           double* partial) {
  using A = Compute<T>;
  __shared__ Pair shared[kThreads];
  __shared__ Coefficients<A> k;
  if (threadIdx.y == 0) k = Coefficients<A>(transform, Totals{}, planes.channels, planes.channel());
  __syncthreads();
  ThreadSums<A> own;
  planes.for_packs<N>([&](int64_t i, auto size) {
    constexpr int n = decltype(size)::value;
    const Pack<T, n> g = load<n>(grad + i), s = load<n>(saved + i);
    for (int j = 0; j < n; ++j) {
      own.add(recall_value<FromOutput>(static_cast<A>(g.values[j]), static_cast<A>(s.values[j]), k, transform.slope));
    }
  });
  const Pair merged = merge_columns<Pair>(own, shared);
  if (threadIdx.y == 0) {
    write_sums(partial + planes.part() * 2 * planes.channels, transform, planes.channels, planes.channel(), merged);
  }
}

template <bool FromOutput, int N, class T>
__global__ void row_sums(const T* grad, const T* saved, Rows rows, Transform<Compute<T>> transform, double* partial) {
  using A = Compute<T>;
  __shared__ Pair shared[kThreads];
  Coefficients<A> k[N];
  fill_coefficients(rows, transform, Totals{}, k);
  const int64_t c = rows.channel();
  const bool is_active = c < rows.channels;
  ThreadSums<A> own[N];
  for (int64_t row = is_active ? rows.first() : rows.rows; row < rows.rows; row += rows.step()) {
    const int64_t i = row * rows.channels + c;
    const Pack<T, N> g = load<N>(grad + i), s = load<N>(saved + i);
    for (int j = 0; j < N; ++j) {
      own[j].add(
          recall_value<FromOutput>(static_cast<A>(g.values[j]), static_cast<A>(s.values[j]), k[j], transform.slope));
    }
  }
  for (int j = 0; j < N; ++j) {
    const Pair merged = merge_columns<Pair>(own[j], shared);
    if (is_active && threadIdx.y == 0) {
      write_sums(partial + rows.part() * 2 * rows.channels, transform, rows.channels, c + j, merged);
    }
  }
}

// y = activation of the normalised x; x may be y, for a thread reads each value before it writes it.
template <class T>
struct Normalise {
  using A = Compute<T>;
  const T* x;
  A slope;
  T* y;

  template <int N, class K>
  __device__ void operator()(int64_t i, std::integral_constant<int, N>, const K& k) const {
    Pack<T, N> pack = load<N>(x + i);
    for (int j = 0; j < N; ++j) {
      const A value = static_cast<A>(pack.values[j]);
      pack.values[j] = static_cast<T>(activate((value - k[j].centre) * k[j].scale + k[j].shift, slope));
    }
    store<N>(y + i, pack);
  }
};

template <bool FromOutput, class T>
struct InputGradient {
  using A = Compute<T>;
  const T* grad;
  const T* saved;
  A slope;
  T* result;

  template <int N, class K>
  __device__ void operator()(int64_t i, std::integral_constant<int, N>, const K& k) const {
    const Pack<T, N> g = load<N>(grad + i), s = load<N>(saved + i);
    Pack<T, N> out;
    for (int j = 0; j < N; ++j) {
      const Point<A> point =
          recall_value<FromOutput>(static_cast<A>(g.values[j]), static_cast<A>(s.values[j]), k[j], slope);
      out.values[j] =
          static_cast<T>(k[j].scale * point.d + k[j].per_deviation * point.deviation + k[j].constant);
    }
    store<N>(result + i, out);
  }
};

// The coefficients of one channel, as those of any.
template <class A>
struct Same {
  const Coefficients<A>& value;
  __device__ const Coefficients<A>& operator[](int) const { return value; }
};

template <int N, class A, class Body>
__global__ void over_planes(Planes planes, Transform<A> transform, Totals totals, Body body) {
  __shared__ Coefficients<A> k;
  if (threadIdx.y == 0) k = Coefficients<A>(transform, totals, planes.channels, planes.channel());
  __syncthreads();
  planes.for_packs<N>([&](int64_t i, auto size) { body(i, size, Same<A>{k}); });
}

template <int N, class A, class Body>
__global__ void over_rows(Rows rows, Transform<A> transform, Totals totals, Body body) {
  Coefficients<A> k[N];
  fill_coefficients(rows, transform, totals, k);
  const int64_t c = rows.channel();
  if (c >= rows.channels) return;
  for (int64_t row = rows.first(); row < rows.rows; row += rows.step()) {
    body(row * rows.channels + c, std::integral_constant<int, N>(), k);
  }
}

// One row of partial results, [2C + 1], from many.
__device__ Moments merge_rows(const double* rows, int64_t count, int64_t channels, int64_t c) {
  __shared__ Moments shared[kMergeChannels * kMergeRows];
  Moments own{};
  if (c < channels) {
    for (int64_t r = threadIdx.y; r < count; r += kMergeRows) {
      own.merge(moments_of(rows + r * (2 * channels + 1), channels, c));
    }
  }
  return merge_columns<Moments>(own, shared);
}

__device__ int64_t merged_channel() { return blockIdx.x * static_cast<int64_t>(kMergeChannels) + threadIdx.x; }

__global__ void merge_kernel(const double* rows, int64_t count, int64_t channels, double* row) {
  const int64_t c = merged_channel();
  const Moments moments = merge_rows(rows, count, channels, c);
  if (c < channels && threadIdx.y == 0) write_moments(row, channels, c, moments);
}

template <class R>
__global__ void finish_kernel(const double* rows, int64_t count, int64_t channels, double eps, Running<R> running,
                              double* mean, double* invstd, double* total) {
  const int64_t c = merged_channel();
  const Moments moments = merge_rows(rows, count, channels, c);
  if (c >= channels || threadIdx.y > 0) return;
  mean[c] = moments.mean;
  invstd[c] = moments.invstd(eps);
  if (c == 0) *total = moments.count;
  update(running, moments, c);
}

dim3 merge_grid(int64_t channels) { return dim3(static_cast<unsigned>(divide_up(channels, kMergeChannels))); }

const dim3 kMergeBlock(kMergeChannels, kMergeRows);

template <class T, class Body>
void over_values(const Layout& layout, const Transform<Compute<T>>& transform, const Totals& totals, const Body& body,
                 bool is_aligned, Stream stream) {
  with_pack<T>(layout, is_aligned, [&](auto pack) {
    constexpr int N = decltype(pack)::value;
    if (layout.channels_last) {
      const Rows rows(layout, N, parts(layout));
      over_rows<N><<<rows.grid(), rows.block(), 0, as_stream(stream)>>>(rows, transform, totals, body);
    } else {
      const Planes planes(layout);
      over_planes<N><<<planes.grid(), planes.block(), 0, as_stream(stream)>>>(planes, transform, totals, body);
    }
  });
}

template <bool FromOutput, class T>
void launch_sums(const T* grad, const T* saved, const Layout& layout, const Transform<Compute<T>>& transform,
                 double* partial, Stream stream) {
  with_pack<T>(layout, is_aligned(grad) && is_aligned(saved), [&](auto pack) {
    constexpr int N = decltype(pack)::value;
    if (layout.channels_last) {
      const Rows rows(layout, N, parts(layout));
      row_sums<FromOutput, N>
          <<<rows.grid(), rows.block(), 0, as_stream(stream)>>>(grad, saved, rows, transform, partial);
    } else {
      const Planes planes(layout);
      plane_sums<FromOutput, N>
          <<<planes.grid(), planes.block(), 0, as_stream(stream)>>>(grad, saved, planes, transform, partial);
    }
  });
}

}  // namespace

int64_t parts(const Layout& layout) {
  if (!layout.channels_last) return std::max<int64_t>(1, Planes(layout).parts);
  const int64_t columns = std::max<int64_t>(1, divide_up(layout.channels, 128));
  const int64_t useful = divide_up(layout.rows(), 32);
  return std::max<int64_t>(1, std::min(kBlocks / columns, useful));
}

template <class T>
void statistics(const T* x, const Layout& layout, double* partial, Stream stream) {
  if (layout.rows() == 0) {
    cudaMemsetAsync(partial, 0, (2 * layout.channels + 1) * sizeof(double), as_stream(stream));
    return;
  }
  with_pack<T>(layout, is_aligned(x), [&](auto pack) {
    constexpr int N = decltype(pack)::value;
    if (layout.channels_last) {
      const Rows rows(layout, N, parts(layout));
      row_statistics<N><<<rows.grid(), rows.block(), 0, as_stream(stream)>>>(x, rows, partial);
    } else {
      const Planes planes(layout);
      plane_statistics<N><<<planes.grid(), planes.block(), 0, as_stream(stream)>>>(x, planes, partial);
    }
  });
}

void merge(const double* rows, int64_t count, int64_t channels, double* row, Stream stream) {
  merge_kernel<<<merge_grid(channels), kMergeBlock, 0, as_stream(stream)>>>(rows, count, channels, row);
}

template <class R>
void finish(const double* rows, int64_t count, int64_t channels, double eps, const Running<R>& running, double* mean,
            double* invstd, double* total, Stream stream) {
  finish_kernel<R><<<merge_grid(channels), kMergeBlock, 0, as_stream(stream)>>>(rows, count, channels, eps, running,
                                                                               mean, invstd, total);
}

template <class T>
void normalise(const T* x, const Layout& layout, const Transform<Compute<T>>& transform, T* y, Stream stream) {
  over_values<T>(layout, transform, Totals{}, Normalise<T>{x, transform.slope, y}, is_aligned(x) && is_aligned(y),
                 stream);
}

template <class T>
void sums(const T* grad, const T* saved, bool from_output, const Layout& layout,
          const Transform<Compute<T>>& transform, double* partial, Stream stream) {
  if (layout.rows() == 0) {
    cudaMemsetAsync(partial, 0, 2 * layout.channels * sizeof(double), as_stream(stream));
    return;
  }
  const auto launch = from_output ? launch_sums<true, T> : launch_sums<false, T>;
  launch(grad, saved, layout, transform, partial, stream);
}

template <class T>
void input_gradient(const T* grad, const T* saved, bool from_output, const Layout& layout,
                    const Transform<Compute<T>>& transform, const Totals& totals, T* result, Stream stream) {
  const bool aligned = is_aligned(grad) && is_aligned(saved) && is_aligned(result);
  if (from_output) {
    const InputGradient<true, T> body{grad, saved, transform.slope, result};
    over_values<T>(layout, transform, totals, body, aligned, stream);
  } else {
    const InputGradient<false, T> body{grad, saved, transform.slope, result};
    over_values<T>(layout, transform, totals, body, aligned, stream);
  }
}

SYNC_BN_INSTANTIATE

}  // namespace sync_bn::cuda
