package auth

import (
	"strings"

	"golang.org/x/crypto/bcrypt"

	"ingot/internal/ingot"
)

// maxCost bounds how slow a hash may be: each step doubles the time, 14 is about a second.
const maxCost = 16

// Parse reads a file of htpasswd: user:hash on each line, empty lines and those that begin with #
// aside. Hashes are bcrypt ($2y$, $2a$, $2b$); any other is an error that names its line and not
// the hash.
func Parse(text string) (map[string][]byte, error) {
	users := map[string][]byte{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		switch {
		case !ok || user == "":
			return nil, ingot.Errorf(ingot.Invalid, "line %d is not user:hash", number)
		case users[user] != nil:
			return nil, ingot.Errorf(ingot.Invalid, "line %d names user %q again", number, user)
		}
		if err := checkHash(hash); err != nil {
			return nil, ingot.Errorf(ingot.Invalid, "line %d: %w", number, err)
		}
		users[user] = []byte(hash)
	}
	if len(users) == 0 {
		return nil, ingot.Errorf(ingot.Invalid, "there is no user in it; add one with: "+
			"htpasswd -B FILE USER")
	}
	return users, nil
}

// hashLength is that of every bcrypt hash.
const hashLength = 60

func checkHash(hash string) error {
	kind := hash[:min(4, len(hash))]
	if kind != "$2y$" && kind != "$2a$" && kind != "$2b$" {
		return ingot.Errorf(ingot.Invalid, "the hash is not bcrypt, and no other is accepted; "+
			"make it with: htpasswd -B FILE USER")
	}
	cost, err := bcrypt.Cost([]byte(hash))
	switch {
	case err != nil || len(hash) != hashLength:
		return ingot.Errorf(ingot.Invalid, "the bcrypt hash is damaged")
	case cost > maxCost:
		return ingot.Errorf(ingot.Invalid, "the bcrypt hash has cost %d, which would take minutes; "+
			"at most %d", cost, maxCost)
	}
	return nil
}
