// A sound as one sees it: how loud it is from its start to its end, the part that fits, and how far it has been played.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { get, remembering } from "./api.js";
import { clock, number, t } from "./language.js";
import { play, stop, usePlaying } from "./player.js";
import { Name } from "./text.js";

const HEIGHT = 100;
const waveOf = remembering((id) => get(`/api/wave/${id}`));

const path = (bars) =>
  bars.map((bar, x) => `M${x + 0.5} ${50 - Math.max(1.5, bar * 0.42)}v${2 * Math.max(1.5, bar * 0.42)}`).join("");

export const useWave = (item) => {
  const [wave, setWave] = useState(null);
  useEffect(() => {
    let here = true;
    setWave(null);
    waveOf(item.id).then((found) => here && setWave(found), () => {});
    return () => (here = false);
  }, [item.id]);
  return wave;
};

const hasPart = (item, wave) =>
  item.start !== undefined && item.start !== null && wave && item.stop - item.start < 0.9 * wave.seconds;

/** The strip itself; a click plays from there. */
export const Strip = ({ item, wave }) => {
  const at = usePlaying(item.id);
  const wide = wave?.bars.length || 1;
  const place = (seconds) => (wide * Math.min(seconds, wave.seconds)) / wave.seconds;
  const from = (event) => {
    event.stopPropagation();
    const box = event.currentTarget.getBoundingClientRect();
    if (wave) play(item.id, (wave.seconds * (event.clientX - box.left)) / box.width);
  };
  // Time goes from left to right in every language, as in players.
  return html`<svg class="wave" viewBox="0 0 ${wide} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true" onClick=${from}>
    ${hasPart(item, wave) &&
    html`<rect class="part" x=${place(item.start)} width=${place(item.stop) - place(item.start)} height=${HEIGHT} />`}
    ${wave && html`<path d=${path(wave.bars)} />`}
    ${at !== null && wave && html`<rect class="at" x=${place(at)} width=${wide / 150} height=${HEIGHT} />`}
  </svg>`;
};

export const startOf = (item) => item.start ?? 0;

/** What stands below a strip. */
export const about = (item, wave) => {
  if (!wave) return "";
  const part = hasPart(item, wave) ? `${clock(item.start)}–${clock(Math.min(item.stop, wave.seconds))} / ` : "";
  return `${part}${clock(wave.seconds)}`;
};

/** In the grid: the strip, its name, and a button that no Tab stops at: "p" on the cell does the same. */
export const Sound = ({ item }) => {
  const wave = useWave(item);
  const at = usePlaying(item.id);
  const toggle = (event) => {
    event.stopPropagation();
    if (at === null) play(item.id, startOf(item));
    else stop();
  };
  return html`<div class="sound">
    <${Strip} item=${item} wave=${wave} />
    <div class="line">
      <button class="play ${at === null ? "" : "on"}" tabindex="-1" aria-hidden="true" title=${t(at === null ? "play" : "stop")} onClick=${toggle}></button>
      <${Name} class="name" text=${item.name} />
      <span class="time" dir="ltr" data-time=${about(item, wave)}></span>
    </div>
  </div>`;
};

export const scoreOf = (item) =>
  typeof item.score === "number" ? number(item.score, { minimumFractionDigits: 2, maximumFractionDigits: 2 }) : "";
