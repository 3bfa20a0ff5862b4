// The REST interface, described by swagger-ui: its bundle is a script of its own, which only this page loads.

const dark = window.matchMedia("(prefers-color-scheme: dark)");

export function rest(root) {
  const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", follow);
  follow();
  window.SwaggerUIBundle({ domNode: root, url: root.dataset.address, validatorUrl: null, deepLinking: false, docExpansion: "list" });
}
