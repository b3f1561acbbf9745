import { defineConfig } from "vite";

// Built twice from the same sources, the page is the same to the byte: its stamp says whether it is fresh.
export default defineConfig({
  base: "./",
  build: {
    outDir: process.env.HPCFLOW_PAGE_OUT ?? "dist",
    emptyOutDir: true,
    // The content security policy allows no data: addresses.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: ["chrome111", "firefox115", "safari16.4"],
  },
  worker: { format: "es" },
});
