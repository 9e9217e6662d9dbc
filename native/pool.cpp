#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace mm {
namespace {

constexpr int kMostThreads = 256;
constexpr auto kAwake = std::chrono::microseconds(200);  // that a thread looks for work before it sleeps
constexpr uint32_t kOpen = 1u << 31;

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
  std::atomic<uint32_t> gate{0};  // kOpen while a job takes helpers, and how many are in
  std::atomic<uint64_t> jobs{0};  // begun so far
  std::atomic<int> wanted{1};     // threads, the caller among them
  std::atomic<int> sleeping{0};
  std::mutex bed;
  std::condition_variable wake;
  int started = 1;  // under `callers`
};

Pool* pool = new Pool;  // never destroyed: its threads outlive static objects
thread_local bool inside = false;

void work(Pool& p) {
  for (int64_t i; (i = p.next.fetch_add(1, std::memory_order_relaxed)) < p.count;) p.run(p.context, i);
}

bool enter(Pool& p) {
  uint32_t gate = p.gate.load(std::memory_order_relaxed);
  while (gate & kOpen)
    if (p.gate.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
  return false;
}

void wait_for_job(Pool& p, uint64_t seen) {
  const auto until = std::chrono::steady_clock::now() + kAwake;
  while (p.jobs.load(std::memory_order_acquire) == seen) {
    for (int i = 0; i < 32; i++) pause();
    if (std::chrono::steady_clock::now() < until) continue;
    std::unique_lock<std::mutex> lock(p.bed);
    p.sleeping.fetch_add(1);
    p.wake.wait(lock, [&] { return p.jobs.load() != seen; });
    p.sleeping.fetch_sub(1);
  }
}

void helper(Pool* p, int number) {
  inside = true;
  for (uint64_t seen = 0;;) {
    wait_for_job(*p, seen);
    seen = p->jobs.load(std::memory_order_acquire);
    if (number >= p->wanted.load(std::memory_order_relaxed) || !enter(*p)) continue;
    work(*p);
    p->gate.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void start_helpers(Pool& p, int wanted) {
  for (; p.started < wanted; p.started++) {
    try {
      std::thread(helper, &p, p.started).detach();
    } catch (...) {  // no more threads: those that there are do it
      return;
    }
  }
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
  p.gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int i = 0; p.gate.load(std::memory_order_acquire); i++) i < 4096 ? pause() : std::this_thread::yield();
}

}  // namespace mm
