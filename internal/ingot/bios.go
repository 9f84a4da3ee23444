package ingot

import "time"

// BIOSSetting is a setting of a machine's firmware, as it was read last, with what its BMC tells of it. Names
// and meanings are Ironic's; nil is what is not told.
type BIOSSetting struct {
	Name string `json:"name"`
	// Value is a text, a number, a boolean or nil. On the wire it is a text, as in Ironic.
	Value any `json:"value"`
	// Default is that of the factory.
	Default any `json:"default,omitempty"`

	Type          string   `json:"type,omitempty"` // Enumeration, String, Integer, Boolean, Password
	Allowed       []string `json:"allowed,omitempty"`
	LowerBound    *int64   `json:"lower_bound,omitempty"`
	UpperBound    *int64   `json:"upper_bound,omitempty"`
	MinLength     *int64   `json:"min_length,omitempty"`
	MaxLength     *int64   `json:"max_length,omitempty"`
	ReadOnly      *bool    `json:"read_only,omitempty"`
	ResetRequired *bool    `json:"reset_required,omitempty"`
	Unique        *bool    `json:"unique,omitempty"`

	CreatedAt time.Time  `json:"created_at"`           // when it was read first
	UpdatedAt *time.Time `json:"updated_at,omitempty"` // when it was read with another value than before
}
