// node pyodide_smoke.mjs PYODIDE ROOT: run the scenes of ROOT/tests/pyodide_scenes.py in Pyodide and
// print what went wrong, a line each.
import { pathToFileURL } from "node:url";

const [pyodide, root] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${pyodide}/pyodide.mjs`));
try {
  // What a callback of the loop raises goes to stderr, and is what made somebody hang.
  const python = await loadPyodide({ env: { PYTHONDONTWRITEBYTECODE: "1" } });
  python.mountNodeFS("/package", root);
  console.log(
    await python.runPythonAsync(`
      import sys
      sys.path[:0] = ["/package", "/package/tests"]
      import pyodide_scenes
      await pyodide_scenes.main()
    `),
  );
  process.exit(0); // the loop has no end of its own
} catch (error) {
  console.log(error.message); // uncaught, it would come after a megabyte of source text
  process.exit(1);
}
