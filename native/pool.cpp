#include "pool.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace mm {
namespace {

constexpr int kMostThreads = 256;
constexpr auto kAwake = std::chrono::microseconds(200);  // that a thread looks for something before it sleeps
constexpr int kLooks = 32;                               // from one look at the clock to the next
constexpr uint32_t kOpen = 1u << 31, kAwaited = 1u << 30;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

struct Pool {
  std::mutex callers;  // held by the one whose job runs
  void (*run)(void*, int64_t) = nullptr;
  void* context = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  // How many helpers are in the job; kOpen while it takes more, kAwaited while its caller sleeps until they are out.
  std::atomic<uint32_t> gate{0};
  std::atomic<uint64_t> jobs{0};  // begun so far
  std::atomic<int> wanted{1};     // threads, the caller among them
  std::atomic<int> sleeping{0};
  std::mutex bed;
  std::condition_variable wake, empty;
  int started = 1;  // under `callers`
  const int cpus = static_cast<int>(std::thread::hardware_concurrency());
};

Pool* pool = new Pool;  // never destroyed: its threads outlive static objects
thread_local bool inside = false;

template <class Condition>
bool holds_soon(const Condition& condition) {
  const auto until = std::chrono::steady_clock::now() + kAwake;
  do
    for (int i = 0; i < kLooks; i++) {
      if (condition()) return true;
      pause();
    }
  while (std::chrono::steady_clock::now() < until);
  return false;
}

void work(Pool& p) {
  for (int64_t i; (i = p.next.fetch_add(1, std::memory_order_relaxed)) < p.count;) p.run(p.context, i);
}

bool enter(Pool& p) {
  uint32_t gate = p.gate.load(std::memory_order_relaxed);
  while (gate & kOpen)
    if (p.gate.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
  return false;
}

void leave(Pool& p) {
  if (p.gate.fetch_sub(1, std::memory_order_acq_rel) != kAwaited + 1) return;
  { std::lock_guard<std::mutex> lock(p.bed); }  // the caller sleeps, or has not looked yet
  p.empty.notify_one();
}

void close_and_wait(Pool& p) {
  p.gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  if (holds_soon([&] { return !p.gate.load(std::memory_order_acquire); })) return;
  std::unique_lock<std::mutex> lock(p.bed);
  p.gate.fetch_or(kAwaited, std::memory_order_acq_rel);
  p.empty.wait(lock, [&] { return p.gate.load(std::memory_order_acquire) == kAwaited; });
  p.gate.store(0, std::memory_order_relaxed);
}

void wait_for_job(Pool& p, int number, uint64_t seen) {
  const auto begun = [&] { return p.jobs.load() != seen; };
  if (number < p.cpus && holds_soon(begun)) return;  // more would keep others from their processors
  std::unique_lock<std::mutex> lock(p.bed);
  p.sleeping.fetch_add(1);  // before it looks at `jobs`, as the caller adds to that before it looks here
  p.wake.wait(lock, begun);
  p.sleeping.fetch_sub(1);
}

void helper(Pool* p, int number) {
  inside = true;
  for (uint64_t seen = 0;;) {
    wait_for_job(*p, number, seen);
    seen = p->jobs.load(std::memory_order_acquire);
    if (number >= p->wanted.load(std::memory_order_relaxed) || !enter(*p)) continue;
    work(*p);
    leave(*p);
  }
}

// Signals of the process are for its other threads: one that a helper took would wake nobody who waits. Faults stay.
void block_signals(sigset_t* before) {
  sigset_t all;
  sigfillset(&all);
  for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, before);
}

void start_helpers(Pool& p, int wanted) {
  if (p.started >= wanted) return;
  sigset_t before;
  block_signals(&before);  // which a new thread inherits
  try {
    for (; p.started < wanted; p.started++) std::thread(helper, &p, p.started).detach();
  } catch (...) {  // no more threads: those that there are do it
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// Of the pool only the one thread that forked is in the child. The old one is left as it is.
void after_fork() {
  const int wanted = pool->wanted.load();
  pool = new Pool;
  pool->wanted.store(wanted);
  inside = false;
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, after_fork);

}  // namespace

int threads() { return pool->wanted.load(std::memory_order_relaxed); }

void set_threads(int count) { pool->wanted.store(count < 1 ? 1 : count > kMostThreads ? kMostThreads : count); }

void parallel(int64_t count, void (*run)(void*, int64_t), void* context) {
  Pool& p = *pool;
  const int wanted = p.wanted.load(std::memory_order_relaxed);
  if (count < 2 || wanted < 2 || inside) {
    for (int64_t i = 0; i < count; i++) run(context, i);
    return;
  }
  std::lock_guard<std::mutex> turn(p.callers);
  start_helpers(p, wanted);
  p.run = run, p.context = context, p.count = count;
  p.next.store(0, std::memory_order_relaxed);
  p.gate.store(kOpen, std::memory_order_release);
  p.jobs.fetch_add(1);
  if (p.sleeping.load()) {
    { std::lock_guard<std::mutex> lock(p.bed); }
    p.wake.notify_all();
  }
  inside = true;
  work(p);
  inside = false;
  close_and_wait(p);
}

}  // namespace mm
