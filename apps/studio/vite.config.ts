import { defineConfig } from 'vite';

// The built page is package data of fw-serve; addresses in it are relative, so it works behind a proxy's prefix too.
export default defineConfig({
  base: './',
  publicDir: false,
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    outDir: '../../packages/fw-serve/src/fw_serve/studio/static',
    emptyOutDir: true,
    assetsDir: 'studio',
    assetsInlineLimit: 0,
    modulePreload: false,
    chunkSizeWarningLimit: 900,
    target: 'es2022',
    license: { fileName: 'licenses.md' },
  },
  server: { proxy: { '/v1': 'http://127.0.0.1:8000', '/readyz': 'http://127.0.0.1:8000' } },
});
