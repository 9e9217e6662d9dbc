// The pool on its own: callers at once, other numbers of threads meanwhile, sleep, forks. `pool_test cost` measures.
#include "../pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

int failures = 0;

void expect(bool right, const char* what) {
  if (right) return;
  fprintf(stderr, "pool: %s\n", what);
  failures++;
}

void sleep_for(int microseconds) { std::this_thread::sleep_for(std::chrono::microseconds(microseconds)); }

// Whether each number below count has its turn once. The counts are no atomics: the pool keeps threads apart.
bool each_once(int64_t count) {
  std::vector<int> turns(count, 0);
  mm::parallel(count, [&](int64_t i) { turns[i]++; });
  return std::all_of(turns.begin(), turns.end(), [](int n) { return n == 1; });
}

void test_each_number_has_its_turn_once() {
  for (int threads : {1, 2, 3, 7}) {
    mm::set_threads(threads);
    for (int64_t count : {0, 1, 2, 3, 1000}) expect(each_once(count), "not each number had one turn");
  }
}

void test_threads_are_within_bounds() {
  mm::set_threads(0);
  expect(mm::threads() == 1, "0 threads");
  mm::set_threads(1 << 30);
  expect(mm::threads() == 256, "more threads than it may have");
}

void test_all_threads_take_part_and_no_more() {
  mm::set_threads(7);
  for (int wanted : {3, 5, 2}) {
    mm::set_threads(wanted);
    std::atomic<int> inside{0}, most{0};
    mm::parallel(40, [&](int64_t) {
      const int now = ++inside;
      for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) continue;
      sleep_for(500);
      inside--;
    });
    expect(most > 1 && most <= wanted, "another number of threads took part");
  }
}

void test_from_inside_of_itself() {
  mm::set_threads(3);
  std::atomic<int> sum{0};
  mm::parallel(10, [&](int64_t i) { mm::parallel(10, [&, i](int64_t j) { sum += 10 * i + j; }); });
  expect(sum == 99 * 100 / 2, "a job within a job");
}

void test_callers_at_once_while_threads_come_and_go(int turns) {
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::thread changes([&] {
    for (int n = 0; !done; n++) mm::set_threads(1 + n % 6), sleep_for(50);
  });
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; c++)
    callers.emplace_back([&, c] {
      for (int n = 0; n < turns; n++) wrong += !each_once(1 + (n * 7 + c) % 40);
    });
  for (std::thread& caller : callers) caller.join();
  done = true;
  changes.join();
  expect(wrong == 0, "callers at once");
}

void test_awake_asleep_and_falling_asleep(int turns) {
  mm::set_threads(3);
  for (int n = 0; n < turns; n++) {
    expect(each_once(5), "after a pause");
    sleep_for(n % 5 * 75);  // threads sleep after 200
  }
}

void test_the_caller_sleeps_while_others_work() {
  mm::set_threads(2);
  for (int n = 0; n < 10; n++) {
    const auto caller = std::this_thread::get_id();
    std::atomic<bool> helped{false};
    mm::parallel(2, [&](int64_t) {  // one item each, and the helper's takes longer
      if (std::this_thread::get_id() != caller) helped = true, sleep_for(3000);
      for (int i = 0; i < 200 && !helped; i++) sleep_for(100);
    });
    expect(helped, "nobody helped");
  }
}

void test_helpers_leave_signals_alone() {
  mm::set_threads(4);
  const auto caller = std::this_thread::get_id();
  std::atomic<int> wrong{0};
  mm::parallel(40, [&](int64_t) {
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    const bool helper = std::this_thread::get_id() != caller;
    wrong += sigismember(&blocked, SIGINT) != helper || sigismember(&blocked, SIGSEGV);
    sleep_for(100);
  });
  expect(wrong == 0, "signals");
}

void test_forks_while_another_thread_computes(int forks) {
#if defined(__SANITIZE_THREAD__)
  return;  // "starting new threads after multi-threaded fork is not supported"
#endif
  mm::set_threads(3);
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) mm::parallel(100, [](int64_t) {});  // allocates nothing: AddressSanitizer's locks are no fork's
  });
  for (int n = 0; n < forks; n++) {
    const pid_t child = fork();
    if (!child) {
      alarm(60);
      bool right = mm::threads() == 3;
      for (int i = 0; i < 20; i++) right = right && each_once(100);
      _exit(right ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    expect(status == 0, "a forked process");
  }
  done = true;
  other.join();
}

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

void work_for(double microseconds) {
  const auto start = Clock::now();
  while (microseconds_since(start) < microseconds) continue;
}

// Microseconds that a job of one item a thread takes longer than an item, the median.
double cost(int threads, double item, int pause, int turns) {
  mm::set_threads(threads);
  std::vector<double> all;
  for (int n = 0; n < turns; n++) {
    if (pause) sleep_for(pause);
    const auto start = Clock::now();
    mm::parallel(threads, [=](int64_t) { work_for(item); });
    all.push_back(microseconds_since(start) - item);
  }
  std::nth_element(all.begin(), all.begin() + turns / 2, all.end());
  return all[turns / 2];
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1 && !strcmp(arguments[1], "cost")) {
    for (int threads : {1, 2, 3, 64})
      for (double item : {0, 10, 100})
        printf("%2d threads, items of %3.0f us: %.2f us more when awake, %.2f asleep\n", threads, item,
               cost(threads, item, 0, 2000), cost(threads, item, 2000, 100));
    return 0;
  }
  alarm(300);  // rather than hang
  test_each_number_has_its_turn_once();
  test_threads_are_within_bounds();
  test_all_threads_take_part_and_no_more();
  test_from_inside_of_itself();
  test_callers_at_once_while_threads_come_and_go(300);
  test_awake_asleep_and_falling_asleep(300);
  test_the_caller_sleeps_while_others_work();
  test_helpers_leave_signals_alone();
  test_forks_while_another_thread_computes(10);
  if (!failures) puts("pool: all as it should be");
  return failures != 0;
}
