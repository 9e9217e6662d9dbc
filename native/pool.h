// The threads of the library: one pool, which every caller shares.
#pragma once
#include <stdint.h>

namespace mm {

// Threads that a call of `parallel` may use, the caller's own among them.
int threads();
void set_threads(int count);

// run(context, i) once for each i < count, by this thread and those of the pool. Called from inside of itself, it runs
// all by this thread; two callers take turns. After a fork the child's first call starts threads of its own.
// run must not throw.
void parallel(int64_t count, void (*run)(void*, int64_t), void* context);

template <class Body>
void parallel(int64_t count, const Body& body) {
  parallel(count, [](void* context, int64_t i) { (*static_cast<const Body*>(context))(i); }, const_cast<Body*>(&body));
}

}  // namespace mm
