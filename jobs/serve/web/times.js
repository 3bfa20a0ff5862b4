// Times are sent in UTC and shown as the reader's own.

const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export function localTimes(root) {
  for (const element of root.querySelectorAll("time[data-seconds]")) {
    element.textContent = format.format(new Date(1000 * Number(element.dataset.seconds)));
    element.removeAttribute("data-seconds");
  }
}
