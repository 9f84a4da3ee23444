package config

import (
	"encoding"
	"reflect"
	"strconv"
	"strings"

	"ingot/internal/ingot"
)

// prefix of the environment variables that stand for keys: INGOT_API_LISTEN is [api] listen,
// INGOT_BOOT_DHCP_MODE is [boot.dhcp] mode. Lists are separated by commas.
const prefix = "INGOT_"

// environment lays the INGOT_* variables over the configuration. One that names no key is an
// error, as an unknown key in the file is; the clients' own variables are left alone.
func (c *Config) environment(environ []string) error {
	keys := map[string]reflect.Value{}
	collect(keys, "", reflect.ValueOf(c).Elem())
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		rest, ours := strings.CutPrefix(name, prefix)
		if !ours || clientVariables[name] {
			continue
		}
		field, ok := keys[strings.ToLower(rest)]
		if !ok {
			return ingot.Errorf(ingot.Invalid, "environment variable %s names no key; "+
				"`ingot config reference` prints every key", name)
		}
		if err := set(field, value); err != nil {
			return ingot.Errorf(ingot.Invalid, "environment variable %s: %w", name, err)
		}
	}
	return nil
}

// clientVariables are read by the command line client, not by the server.
var clientVariables = map[string]bool{"INGOT_URL": true, "INGOT_USER": true,
	"INGOT_PASSWORD": true}

// collect maps "api_listen" to the field of [api] listen.
func collect(keys map[string]reflect.Value, path string, v reflect.Value) {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag.Get("toml")
		if tag == "" || tag == "-" {
			continue
		}
		if field := v.Field(i); field.Kind() == reflect.Struct {
			collect(keys, path+tag+"_", field)
		} else {
			keys[path+tag] = field
		}
	}
}

func set(field reflect.Value, value string) error {
	if u, ok := field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(value))
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString(value)
	case reflect.Bool:
		b, err := strconv.ParseBool(value)
		if err != nil {
			return ingot.Errorf(ingot.Invalid, "%q is not true or false", value)
		}
		field.SetBool(b)
	case reflect.Int:
		n, err := strconv.Atoi(value)
		if err != nil {
			return ingot.Errorf(ingot.Invalid, "%q is not a number", value)
		}
		field.SetInt(int64(n))
	case reflect.Slice:
		if field.Type().Elem().Kind() != reflect.String {
			return ingot.Errorf(ingot.Invalid, "it is a list of tables; write it into the file")
		}
		items := []string{}
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
		field.Set(reflect.ValueOf(items))
	}
	return nil
}
