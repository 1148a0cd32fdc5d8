#!/usr/bin/env node
// Security check in another language: is the artifact's type one that we ship?
//
//   node example_check.js --artifact-id ID --name NAME --type TYPE
//
// Prints one JSON object; exit code 0 allow, 1 warn, 2 block. No packages needed.
'use strict';

const SHIPPED = ['model', 'dataset', 'code', 'package'];

const { values } = require('node:util').parseArgs({
  args: process.argv.slice(2),
  strict: false, // the gate passes more than this check reads
  options: {
    'artifact-id': { type: 'string' },
    name: { type: 'string' },
    type: { type: 'string' },
  },
});

const findings = [];
if (!SHIPPED.includes(values.type)) {
  findings.push({ level: 'warn', rule: 'type', message: `nobody ships the type '${values.type}'` });
}
const recommendation = findings.length ? 'warn' : 'allow';
console.log(JSON.stringify({
  timestamp: new Date().toISOString(),
  artifact_id: values['artifact-id'],
  findings,
  recommendation,
}, null, 2));
process.exitCode = { allow: 0, warn: 1, block: 2 }[recommendation];
