// Checks GraphQL documents, and the replies they got, against a schema. Reads [{document, variables, data}] and prints a
// line for everything that is wrong.
const { buildSchema, execute, parse, validate } = require("graphql");
const { readFileSync } = require("fs");
const { isDeepStrictEqual } = require("util");

const schema = buildSchema(readFileSync(process.argv[2], "utf8"), { assumeValid: true });

for (const { document, variables, data } of JSON.parse(readFileSync(0, "utf8"))) {
  const name = document.match(/\w+ (\w+)/)[1];
  const complain = (error) => console.log(`${name}: ${error.message ?? error}`);
  const query = parse(document);
  const errors = validate(schema, query);
  errors.forEach(complain);
  if (errors.length > 0) continue;
  // The reply stands in for the server's own data: what its types do not allow, or was not asked for, shows.
  const result = execute({ schema, document: query, rootValue: data, variableValues: variables });
  (result.errors ?? []).forEach(complain);
  const given = JSON.parse(JSON.stringify(result.data));
  if (!isDeepStrictEqual(given, data)) complain("the reply is not what was asked for");
}
