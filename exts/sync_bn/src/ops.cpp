// From tensors to kernels: checks, layouts, room for results. exts/sync_bn/ops.py says what each operator does.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <torch/library.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "kernels.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#ifdef SYNC_BN_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace sync_bn {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
namespace backend = SYNC_BN_BACKEND;

#ifdef SYNC_BN_CUDA
// Makes x's device the current one; kernels go to its current stream.
struct Context {
  explicit Context(const Tensor& x) : guard(x.device()) {}
  backend::Stream stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }
  static void check_launch() { C10_CUDA_KERNEL_LAUNCH_CHECK(); }
  c10::cuda::CUDAGuard guard;
};
#else
struct Context {
  explicit Context(const Tensor&) {}
  backend::Stream stream() const { return nullptr; }
  static void check_launch() {}
};
#endif

// Calls body, which launches a kernel, with a value of x's type.
template <class Body>
void dispatch(const Tensor& x, const Body& body) {
  switch (x.scalar_type()) {
    case at::kFloat: body(float()); break;
    case at::kDouble: body(double()); break;
    case at::kHalf: body(c10::Half()); break;
    case at::kBFloat16: body(c10::BFloat16()); break;
    default: TORCH_CHECK(false, "sync_bn: expected floating-point numbers, got ", x.scalar_type());
  }
  Context::check_launch();
}

bool has_rows(const Tensor& x) { return x.movedim(1, -1).is_contiguous(); }

// x in one of the two layouts: itself, or if it has neither a contiguous copy.
Tensor dense(const Tensor& x) {
  TORCH_CHECK(x.dim() >= 2 && x.size(1) > 0, "sync_bn: expected N x C x ..., got ", x.sizes());
  return x.is_contiguous() || has_rows(x) ? x : x.contiguous();
}

// Of a dense tensor.
Layout layout_of(const Tensor& x) {
  const int64_t batch = x.size(0), channels = x.size(1);
  const int64_t positions = batch * channels == 0 ? 0 : x.numel() / (batch * channels);
  return {batch, channels, positions, has_rows(x)};
}

// grad in x's layout, copied only if it has another one.
Tensor like(const Tensor& grad, const Tensor& x) {
  TORCH_CHECK(grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type(), "sync_bn: gradient of another shape");
  return has_rows(x) ? grad.movedim(1, -1).contiguous().movedim(-1, 1) : grad.contiguous();
}

// Room for a result of x's layout. On Linux, asks for huge pages: where the memory is fresh, which large blocks always
// are, the system's work of handing it out in pages of 4 KB takes several times as long as the kernel that fills it.
Tensor empty_as(const Tensor& x) {
  const Tensor y = at::empty_like(x);
#if defined(__linux__) && !defined(SYNC_BN_CUDA)
  constexpr uintptr_t page = 1 << 21, least = 2 * page;
  const auto begin = reinterpret_cast<uintptr_t>(y.mutable_data_ptr()), end = begin + y.nbytes();
  const uintptr_t first = (begin + page - 1) / page * page;
  if (y.nbytes() >= least) madvise(reinterpret_cast<void*>(first), end / page * page - first, MADV_HUGEPAGE);
#endif
  return y;
}

// The vectors of C, in the types that the kernels read; holds on to them.
struct Vectors {
  Vectors(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
          const Tensor& invstd)
      : mean_(convert(mean, at::kDouble, x)), invstd_(convert(invstd, at::kDouble, x)) {
    const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    if (weight) weight_ = convert(*weight, type, x);
    if (bias) bias_ = convert(*bias, type, x);
  }

  template <class A>
  Transform<A> transform(double slope) const {
    return {mean_.const_data_ptr<double>(), invstd_.const_data_ptr<double>(),
            weight_.defined() ? weight_.const_data_ptr<A>() : nullptr,
            bias_.defined() ? bias_.const_data_ptr<A>() : nullptr, static_cast<A>(slope)};
  }

 private:
  static Tensor convert(const Tensor& vector, at::ScalarType type, const Tensor& x) {
    TORCH_CHECK(vector.numel() == x.size(1) && vector.device() == x.device(), "sync_bn: expected ", x.size(1),
                " numbers on ", x.device(), " for as many channels, got ", vector.numel(), " on ", vector.device());
    return vector.to(type).contiguous();
  }

  Tensor mean_, invstd_, weight_, bias_;
};

Tensor statistics(const Tensor& input) {
  const Context context(input);
  const Tensor x = dense(input);
  const Layout layout = layout_of(x);
  const int64_t parts = backend::parts(layout), size = 2 * layout.channels + 1;
  const Tensor partial = at::empty({parts, size}, x.options().dtype(at::kDouble));
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    backend::statistics<T>(x.const_data_ptr<T>(), layout, partial.mutable_data_ptr<double>(), context.stream());
  });
  if (parts == 1) return partial.view({size});
  const Tensor row = at::empty({size}, partial.options());
  backend::merge(partial.const_data_ptr<double>(), parts, layout.channels, row.mutable_data_ptr<double>(),
                 context.stream());
  Context::check_launch();
  return row;
}

std::tuple<Tensor, Tensor, Tensor> finish(const Tensor& rows, double eps, const OptionalTensor& running_mean,
                                          const OptionalTensor& running_var, std::optional<double> momentum,
                                          const OptionalTensor& batches) {
  const Context context(rows);
  TORCH_CHECK(rows.dim() == 2 && rows.size(1) % 2 == 1 && rows.is_contiguous(), "sync_bn: expected W x (2C + 1)");
  const int64_t channels = rows.size(1) / 2;
  const Tensor mean = at::empty({channels}, rows.options()), invstd = at::empty_like(mean);
  const Tensor total = at::empty({}, rows.options());
  // Running statistics in half precision are updated in float32.
  const bool tracks = running_mean && running_var;
  const bool in_double = tracks && running_mean->scalar_type() == at::kDouble;
  const auto type = in_double ? at::kDouble : at::kFloat;
  const Tensor means = tracks ? running_mean->to(type) : Tensor(), vars = tracks ? running_var->to(type) : Tensor();
  const auto run = [&](auto value) {
    using R = decltype(value);
    Running<R> running{nullptr, nullptr, momentum.value_or(0.0), nullptr};
    if (tracks) {
      TORCH_CHECK(momentum || batches, "sync_bn: expected a momentum or the number of batches");
      running.mean = means.template mutable_data_ptr<R>();
      running.var = vars.template mutable_data_ptr<R>();
      running.batches = momentum ? nullptr : batches->template const_data_ptr<int64_t>();
    }
    backend::finish<R>(rows.const_data_ptr<double>(), rows.size(0), channels, eps, running,
                       mean.mutable_data_ptr<double>(), invstd.mutable_data_ptr<double>(),
                       total.mutable_data_ptr<double>(), context.stream());
  };
  in_double ? run(double()) : run(float());
  Context::check_launch();
  if (tracks && !means.is_same(*running_mean)) running_mean->copy_(means);
  if (tracks && !vars.is_same(*running_var)) running_var->copy_(vars);
  return {mean, invstd, total};
}

void run_normalise(const Tensor& x, const Vectors& vectors, double slope, const Tensor& y, const Context& context) {
  if (x.numel() == 0) return;
  dispatch(x, [&](auto type) {
    using T = decltype(type);
    backend::normalise<T>(x.const_data_ptr<T>(), layout_of(x), vectors.transform<Compute<T>>(slope),
                          y.mutable_data_ptr<T>(), context.stream());
  });
}

// The number of values and the processes matter to the gradient alone.
Tensor normalise(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
                 const Tensor& invstd, const OptionalTensor&, double slope, c10::string_view) {
  const Context context(input);
  const Tensor x = dense(input), y = empty_as(x);
  run_normalise(x, Vectors(x, weight, bias, mean, invstd), slope, y, context);
  return y;
}

void normalise_(Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
                const Tensor& invstd, double slope) {
  const Context context(x);
  const Tensor y = dense(x);
  run_normalise(y, Vectors(y, weight, bias, mean, invstd), slope, y, context);
  if (!y.is_same(x)) x.copy_(y);
}

Tensor sums(const Tensor& gradient, const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
            const Tensor& mean, const Tensor& invstd, double slope, bool from_output) {
  const Context context(input);
  const Tensor saved = dense(input), grad = like(gradient, saved);
  const Vectors vectors(saved, weight, bias, mean, invstd);
  const Layout layout = layout_of(saved);
  const Tensor partial = at::empty({backend::parts(layout), 2, layout.channels}, mean.options().dtype(at::kDouble));
  dispatch(saved, [&](auto type) {
    using T = decltype(type);
    backend::sums<T>(grad.const_data_ptr<T>(), saved.const_data_ptr<T>(), from_output, layout,
                     vectors.transform<Compute<T>>(slope), partial.mutable_data_ptr<double>(), context.stream());
  });
  return partial.size(0) == 1 ? partial[0] : partial.sum(0);
}

Tensor input_gradient(const Tensor& gradient, const Tensor& input, const OptionalTensor& weight,
                      const OptionalTensor& bias, const Tensor& mean, const Tensor& invstd,
                      const OptionalTensor& total, const OptionalTensor& count, double slope, bool from_output) {
  const Context context(input);
  const Tensor saved = dense(input), grad = like(gradient, saved), result = empty_as(saved);
  const Vectors vectors(saved, weight, bias, mean, invstd);
  Totals totals{};
  if (total) {
    TORCH_CHECK(count && total->is_contiguous(), "sync_bn: expected the number of values with their sums");
    totals = {total->const_data_ptr<double>(), count->const_data_ptr<double>()};
  }
  if (saved.numel() == 0) return result;
  dispatch(saved, [&](auto type) {
    using T = decltype(type);
    backend::input_gradient<T>(grad.const_data_ptr<T>(), saved.const_data_ptr<T>(), from_output, layout_of(saved),
                               vectors.transform<Compute<T>>(slope), totals, result.mutable_data_ptr<T>(),
                               context.stream());
  });
  return result;
}

}  // namespace

#ifdef SYNC_BN_CUDA
TORCH_LIBRARY_IMPL(sync_bn, CUDA, library) {
#else
TORCH_LIBRARY_IMPL(sync_bn, CPU, library) {
#endif
  library.impl("statistics", statistics);
  library.impl("finish", finish);
  library.impl("normalise", normalise);
  library.impl("normalise_", normalise_);
  library.impl("sums", sums);
  library.impl("input_gradient", input_gradient);
}

}  // namespace sync_bn
