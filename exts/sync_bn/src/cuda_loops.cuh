// How the kernels on a GPU go over a tensor: which values a block and a thread take, 16 bytes at a time wherever addresses
// allow it, and how the threads of a block merge what they found.
#pragma once

#include <algorithm>

#include "channel.h"

namespace sync_bn::cuda {

inline constexpr int kThreads = 256;
inline constexpr int64_t kSegment = 8192;  // channels-first: values of a plane that a block takes, at most

__host__ __device__ constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
constexpr int kPack = 16 / sizeof(T);

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// N values at once; the address is a multiple of their size.
template <int N, class T>
__device__ Pack<T, N> load(const T* x) {
  return *reinterpret_cast<const Pack<T, N>*>(x);
}

template <int N, class T>
__device__ void store(T* y, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(y) = pack;
}

// Merges what the threads of one threadIdx.x hold; the one of threadIdx.y 0 gets the result. All threads take part.
template <class M>
__device__ M merge_columns(const M& own, M* shared) {
  const int width = blockDim.x, index = threadIdx.y * width + threadIdx.x;
  shared[index] = own;
  __syncthreads();
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y < half) shared[index].merge(shared[index + half * width]);
    __syncthreads();
  }
  const M merged = shared[threadIdx.x];
  __syncthreads();
  return merged;
}

// Channels-first: a block of 1 x kThreads takes a segment of a plane, a part is the same segment of all C planes.
struct Planes {
  int64_t channels, positions, segments, parts;

  explicit Planes(const Layout& layout)
      : channels(layout.channels),
        positions(layout.positions),
        segments(std::max<int64_t>(1, divide_up(layout.positions, kSegment))),
        parts(layout.batch * segments) {}

  dim3 grid() const { return dim3(static_cast<unsigned>(parts * channels)); }
  dim3 block() const { return dim3(1, kThreads); }

  __device__ int64_t part() const { return blockIdx.x / channels; }

  __device__ int64_t channel() const { return blockIdx.x % channels; }

  // Calls body(index, count) for the segment's packs of N values, and for single ones at its unaligned ends.
  template <int N, class Body>
  __device__ void for_packs(const Body& body) const {
    const int64_t plane = (part() / segments * channels + channel()) * positions, segment = part() % segments;
    const int64_t begin = plane + positions * segment / segments, end = plane + positions * (segment + 1) / segments;
    const int64_t first = min(divide_up(begin, N) * N, end), last = max(end / N * N, first);
    const int thread = threadIdx.y;
    for (int64_t i = begin + thread; i < first; i += kThreads) body(i, std::integral_constant<int, 1>());
    for (int64_t i = first + N * thread; i < last; i += N * kThreads) body(i, std::integral_constant<int, N>());
    for (int64_t i = last + thread; i < end; i += kThreads) body(i, std::integral_constant<int, 1>());
  }
};

// Channels-last: a block takes packs of channels along x and shares its rows among y, a part is a share of the rows.
struct Rows {
  int64_t channels, rows, width, parts;
  int pack;

  Rows(const Layout& layout, int pack, int64_t parts)
      : channels(layout.channels), rows(layout.rows()), width(32), parts(parts), pack(pack) {
    while (width > 1 && width / 2 * pack >= channels) width /= 2;
  }

  dim3 grid() const {
    return dim3(static_cast<unsigned>(divide_up(channels, width * pack)), static_cast<unsigned>(parts));
  }
  dim3 block() const { return dim3(static_cast<unsigned>(width), static_cast<unsigned>(kThreads / width)); }

  __device__ int64_t part() const { return blockIdx.y; }
  __device__ int64_t channel() const { return (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * pack; }
  __device__ int64_t first() const { return blockIdx.y * static_cast<int64_t>(blockDim.y) + threadIdx.y; }
  __device__ int64_t step() const { return gridDim.y * static_cast<int64_t>(blockDim.y); }
};

// The coefficients of a thread's channels, worked out by one thread of each column for all.
template <int N, class A>
__device__ void fill_coefficients(const Rows& rows, const Transform<A>& transform, const Totals& totals,
                                  Coefficients<A> (&own)[N]) {
  __shared__ Coefficients<A> shared[32 * N];
  for (int j = threadIdx.y; j < N; j += blockDim.y) {
    const int64_t c = rows.channel() + j;
    if (c < rows.channels) shared[threadIdx.x * N + j] = Coefficients<A>(transform, totals, rows.channels, c);
  }
  __syncthreads();
  for (int j = 0; j < N; ++j) own[j] = shared[threadIdx.x * N + j];
}

template <class T>
bool is_aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * kPack<T>) == 0;
}

// Calls body with the pack size: that of 16 bytes where all addresses allow it.
template <class T, class Body>
void with_pack(const Layout& layout, bool is_aligned, const Body& body) {
  if (is_aligned && (!layout.channels_last || layout.channels % kPack<T> == 0)) {
    body(std::integral_constant<int, kPack<T>>());
  } else {
    body(std::integral_constant<int, 1>());
  }
}

}  // namespace sync_bn::cuda
