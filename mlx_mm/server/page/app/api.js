// Questions to the server that this page came from, and what becomes of them where it is gone.
import { t } from "./language.js";

/** What a person can be told. status: 0 where nobody answers. */
export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const listeners = new Set();
let state = "there"; // "there", "gone" or "locked"

export const onState = (listener) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

const become = (next) => {
  if (state === next) return;
  state = next;
  listeners.forEach((listener) => listener(next));
  if (next === "gone") wait();
};

// A server that comes back may be another one, which knows our session no more: /api/about tells both.
const wait = () =>
  setTimeout(async () => {
    try {
      await get("/api/about");
    } catch {
      if (state === "gone") wait();
    }
  }, 1500);

export const check = async (response) => {
  // What everybody may ask says nothing of whether we are known.
  const open = !new URL(response.url).pathname.startsWith("/api/");
  if (response.status === 401) become("locked");
  else if (state !== "locked" || !open) become("there");
  if (response.ok) return response;
  let message = t("wrong", { status: response.status });
  try {
    message = (await response.json()).error.message;
  } catch {
    // an answer that is no error of ours has its status alone
  }
  throw new Failure(message, response.status);
};

export const ask = async (address, options = {}) => {
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    become("gone");
    throw new Failure(t("gone"), 0);
  }
  return check(response);
};

// Another tab may have opened the page anew, and its cookie is ours, too.
document.addEventListener("visibilitychange", () => {
  if (state === "locked" && !document.hidden) get("/api/about").catch(() => {});
});

export const get = async (address, signal) => (await ask(address, { signal })).json();

export const body = (value) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

export const post = async (address, value, signal) => (await ask(address, { ...body(value), signal })).json();

const MOST = 500; // answers of a kind that are kept

/** A function that asks about an item once, while the answer is among those kept; and its `forget`. */
export const remembering = (question) => {
  const known = new Map();
  const answer = (id) => {
    if (!known.has(id)) {
      if (known.size >= MOST) known.delete(known.keys().next().value);
      const asked = question(id);
      known.set(id, asked);
      asked.catch(() => known.delete(id));
    }
    return known.get(id);
  };
  answer.forget = (id) => known.delete(id);
  return answer;
};

/** What is known of an item. */
export const details = remembering((id) => get(`/api/items/${id}`));
export const thumbnail = (content) => `/api/thumb/${content}.jpg`;
export const original = (id) => `/api/original/${id}`;
