// Pictures and sounds that were dropped or pasted. They are too long for an address, which has a short name for each.
import { store } from "./tab.js";

const LONGEST = 768; // pixels: more than any model looks at
const MOST = 40e6; // bytes of a sound
const MOST_HELD = 8;

export const isHeld = (name) => name.startsWith("here-");
const held = new Map(Object.entries(sessionStorage).filter(([name]) => isHeld(name)));

const asUri = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

/** As JPEG, small; so the tab can keep it over a reload. */
const reduced = async (file) => {
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // where it is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
};

/** The short name of a file; null where it is neither a picture nor a sound that can be read. */
export const keep = async (file) => {
  let uri;
  try {
    if (file.type.startsWith("image/")) uri = await asUri(await reduced(file));
    else if (file.type.startsWith("audio/") && file.size <= MOST) uri = await asUri(file);
    else return null;
  } catch {
    return null;
  }
  const name = `here-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
  if (held.size >= MOST_HELD) {
    const [oldest] = held.keys();
    held.delete(oldest);
    sessionStorage.removeItem(oldest);
  }
  held.set(name, uri);
  store(name, uri);
  return name;
};

/** A data URI, or undefined where this tab has it no more. */
export const uriOf = (name) => held.get(name);
