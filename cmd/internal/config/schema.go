package config

import _ "embed"

//go:embed schema.json
var schema string

// Schema returns the JSON Schema of one file of a configuration, for editors. A test makes it from the structs. It knows each key
// and value, and not what has to fit together: that is what check is for.
func Schema() string { return schema }
