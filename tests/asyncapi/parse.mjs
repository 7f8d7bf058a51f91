// Parses the document named; prints what is wrong with it, a line each.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const require = createRequire(process.env.BUSBAR_ASYNCAPI + '/');
const { Parser } = require('@asyncapi/parser');
const found = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));
for (const each of found.diagnostics) {
  if (each.severity < 2) console.log(each.path.join('/'), each.message);
}
process.exit(found.document ? 0 : 1);
