package store

import (
	"database/sql/driver"

	"ingot/internal/ingot"
)

// instance stands for a node's Instance, NULL when it has none, with an encoding of its own because its secret
// masks itself.
type instance struct{ i **ingot.Instance }

// instanceRow has the secret in place of that of Instance: encoding/json takes the outer one of a name.
type instanceRow struct {
	ingot.Instance
	Key string `json:",omitempty"`
}

func (i instance) Value() (driver.Value, error) {
	var row *instanceRow
	if v := *i.i; v != nil {
		row = &instanceRow{*v, v.Key.Reveal()}
	}
	return document[*instanceRow]{v: &row}.Value()
}

func (i instance) Scan(src any) error {
	var row *instanceRow
	if err := (document[*instanceRow]{v: &row}).Scan(src); err != nil {
		return err
	}
	*i.i = nil
	if row != nil {
		row.Instance.Key = ingot.Secret(row.Key)
		*i.i = &row.Instance
	}
	return nil
}
