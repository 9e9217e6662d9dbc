// What the tests of the kernels share: memory whose neighbours cannot be touched, random numbers, comparisons.
#pragma once
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <vector>

// The case that runs, for messages, and so that a fault says where it was.
inline thread_local char current[256] = "";
inline std::atomic<int> failures{0}, cases{0};

__attribute__((format(printf, 1, 2))) inline void begin(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(current, sizeof(current), format, arguments);
  va_end(arguments);
  cases++;
}

inline bool expect(bool right, const char* what) {
  if (!right && failures++ < 40) fprintf(stderr, "%s: %s\n", current, what);
  return right;
}

inline struct sigaction before_fault;

// Names the case, then lets the sanitizer, or the system, do as it would have done.
inline void name_faults() {
  struct sigaction action = {};
  action.sa_handler = [](int signal) {
    const ssize_t written = write(2, current, strlen(current)) + write(2, ": a fault\n", 10);
    sigaction(signal, &before_fault, nullptr);
    (void)written;
  };
  sigaction(SIGSEGV, &action, &before_fault);
}

// Whether a buffer begins where its pages begin, rather than ending where they end.
inline thread_local bool at_start = false;

// Numbers between two pages that may be neither read nor written: right before the second, or right after the first.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count = 0) : count_(count) {
    const int64_t page = sysconf(_SC_PAGESIZE), bytes = count * sizeof(T), inner = (bytes + page - 1) / page * page;
    size_ = inner + 2 * page;
    pages_ = static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (pages_ == MAP_FAILED || (inner && mprotect(pages_ + page, inner, PROT_READ | PROT_WRITE))) abort();
    data_ = reinterpret_cast<T*>(pages_ + page + (at_start ? 0 : inner - bytes));
  }
  ~Buffer() { munmap(pages_, size_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() { return data_; }
  const T* get() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return count_; }

 private:
  char* pages_;
  T* data_;
  int64_t count_, size_;
};

// Knuth's 64-bit linear congruential generator (MMIX).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint32_t bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return state_ >> 32;
  }
  int64_t below(int64_t n) { return bits() % n; }
  double uniform() { return bits() / 4294967296.0; }
  float normal() {  // nearly: the sum of four uniform numbers, of variance 1
    return float((uniform() + uniform() + uniform() + uniform() - 2) * 1.7320508);
  }
  void fill(Buffer<float>& buffer) {
    for (int64_t i = 0; i < buffer.size(); i++) buffer[i] = normal();
  }

 private:
  uint64_t state_;
};

constexpr float kUntouched = 12345.678f;

inline void spoil(Buffer<float>& buffer) {
  for (int64_t i = 0; i < buffer.size(); i++) buffer[i] = kUntouched;
}

inline double activated(int kind, double x) {
  switch (kind) {
    case 1: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case 2: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case 3: return x / (1 + exp(-1.702 * x));
    case 4: return x / (1 + exp(-x));
    case 5: return x > 0 || x != x ? x : 0;
    default: return x;
  }
}
