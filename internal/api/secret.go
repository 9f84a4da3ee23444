package api

import (
	"slices"
	"strings"

	"ingot/internal/ingot"
)

// secretWords mark a key as secret wherever they stand in it, as in Ironic's masking. Ours is
// "community" (snmp_community): the password of SNMP 1 and 2.
var secretWords = []string{"password", "passwd", "pswd", "passphrase", "admin_pass", "adminpass",
	"new_pass", "secret", "token", "configdrive", "private_key", "encrypted_key",
	"ssh_key_contents", "community"}

// secretKey tells whether the value of a key has to be hidden. A word that ends in "key" is one
// (ipmi_hex_kg_key, snmp_auth_key); deploy_kernel and ssh_key_filename are not.
func secretKey(key string) bool {
	k := strings.ToLower(key)
	return strings.HasSuffix(k, "key") ||
		slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(k, w) })
}

// mask returns a copy of a free-form object with secrets hidden at any depth.
func mask(o ingot.Object) ingot.Object {
	out := make(ingot.Object, len(o))
	for k, v := range o {
		out[k] = maskValue(k, v)
	}
	return out
}

// maskValue hides a secret whatever its type; elsewhere it looks for secrets inside.
func maskValue(key string, v any) any {
	if v != nil && secretKey(key) {
		return ingot.Masked
	}
	switch v := v.(type) {
	case ingot.Object:
		return mask(v)
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = maskValue(key, v[i])
		}
		return list
	}
	return v
}

// maskArgs is mask for the arguments of a step, in which BIOS settings have their names as values.
func maskArgs(o ingot.Object) ingot.Object {
	out := mask(o)
	settings, _ := out["settings"].([]any)
	for _, v := range settings {
		s, _ := v.(ingot.Object)
		name, _ := s["name"].(string)
		if s["value"] != nil && (secretKey(name) || strings.Contains(strings.ToLower(name), "pwd")) {
			s["value"] = ingot.Masked
		}
	}
	return out
}

// maskInstance also hides what an image is fetched with and the config drive, which may be an
// object.
func maskInstance(o ingot.Object) ingot.Object {
	out := mask(o)
	for _, key := range []string{"image_url", "configdrive"} {
		if out[key] != nil {
			out[key] = ingot.Masked
		}
	}
	return out
}
