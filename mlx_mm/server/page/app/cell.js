// One item of the grid.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { original, thumbnail } from "./api.js";
import { day, t } from "./language.js";
import { scoreOf, Sound } from "./sound.js";
import { inOneLine } from "./text.js";

const KINDS = { i: "picture", a: "sound", v: "video" };

/** For who does not see it. */
export const nameOf = (item) =>
  [t(KINDS[item.kind]), inOneLine(item.name), item.moment ? day(item.moment) : "", scoreOf(item)].filter(Boolean).join(", ");

const Picture = ({ item }) => {
  const [broken, setBroken] = useState(false);
  if (broken) return html`<span class="broken"><bdi>${inOneLine(item.name)}</bdi></span>`;
  return html`<img src=${thumbnail(item.content)} alt="" decoding="async" draggable="false" onError=${() => setBroken(true)} />`;
};

// The key frame that fits is the video itself at that time: the index has a picture of its beginning alone.
const Frame = ({ item }) => {
  const video = useRef(null);
  useEffect(() => {
    const here = video.current;
    return () => {
      here.removeAttribute("src");
      here.load(); // or else its decoder stays until the element is collected
    };
  }, []);
  return html`<video ref=${video} src="${original(item.id)}#t=${item.start}" muted preload="metadata" tabindex="-1" />`;
};

const Video = ({ item }) =>
  html`<${item.start > 0 ? Frame : Picture} item=${item} /><span class="badge" aria-hidden="true">▶</span>`;

const SHOWN = { i: Picture, a: Sound, v: Video };

export const Cell = ({ item, box, column, active, selected, on }) => html`<div
  role="gridcell"
  class="cell ${item.kind} ${item.strong === false ? "weak" : ""}"
  style=${{ insetInlineStart: `${box.left}px`, width: `${box.width}px`, height: `${box.height}px` }}
  tabindex=${active ? 0 : -1}
  aria-colindex=${column}
  aria-selected=${selected}
  aria-label=${nameOf(item)}
  title=${inOneLine(item.name)}
  onClick=${on.click}
  onFocus=${on.focus}
>
  <${SHOWN[item.kind]} item=${item} key=${item.content} /><span class="check" aria-hidden="true" onClick=${on.check}></span>
</div>`;
