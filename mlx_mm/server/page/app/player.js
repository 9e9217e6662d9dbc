// The one sound that is heard: a second one ends the first.
import { useEffect, useState } from "../vendor/preact-htm.js";
import { original } from "./api.js";

const audio = new Audio();
const listeners = new Set();
let playing = null;

const tell = () => listeners.forEach((listener) => listener({ id: playing, at: audio.currentTime }));
audio.addEventListener("timeupdate", tell);
for (const event of ["ended", "error"]) {
  audio.addEventListener(event, () => {
    playing = null;
    tell();
  });
}

export const play = (id, start = 0) => {
  if (playing !== id) audio.src = original(id);
  playing = id;
  audio.currentTime = start;
  audio.play().catch(stop); // it was replaced, or cannot be decoded
  tell();
};

export const stop = () => {
  audio.pause();
  playing = null;
  tell();
};

/** Seconds into this sound, null while it is silent. */
export const usePlaying = (id) => {
  const [at, setAt] = useState(playing === id ? audio.currentTime : null);
  useEffect(() => {
    const listener = (now) => setAt(now.id === id ? now.at : null);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, [id]);
  return at;
};
