// Parts of a page with `data-live` are asked for again when their runs change: `data-live="RUN"`, or "" for any run.

export function listen(htmx) {
  const parts = () => [...document.querySelectorAll("[data-live]")];
  if (parts().length === 0) return;
  let source = null;
  const refresh = (changed) => {
    for (const part of parts()) {
      if (changed === null || part.dataset.live === "" || changed.includes(part.dataset.live)) {
        const busy = part.contains(document.activeElement) || part.querySelector("details[open]");
        if (!busy) htmx.trigger(part, "live");
      }
    }
  };
  const open = () => {
    source = new EventSource("/live");
    source.addEventListener("changed", (event) => refresh(JSON.parse(event.data)));
  };
  // a hidden tab holds no connection: a browser allows six to one server
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (source === null) {
      open();
      refresh(null);
    }
  });
  window.addEventListener("pagehide", () => source?.close());
  open();
}
