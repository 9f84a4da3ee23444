package store

import (
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"time"

	"ingot/internal/ingot"
)

// attempt stands for a node's Attempt, NULL when it has none. Its secrets mask themselves
// wherever they are encoded, so the row has an encoding of its own.
type attempt struct{ a **ingot.Attempt }

type attemptRow struct {
	ID          string     `json:"id"`
	Key         string     `json:"key,omitempty"`
	Kernel      ingot.File `json:"kernel"`
	Ramdisk     ingot.File `json:"ramdisk"`
	ISO         ingot.ISO  `json:"iso,omitzero"`
	Target      *targetRow `json:"target,omitempty"`
	Completed   bool       `json:"completed,omitempty"`
	Written     bool       `json:"written,omitempty"`
	NeedsLoader bool       `json:"needs_loader,omitempty"`
	Boots       int        `json:"boots,omitempty"`
	BootedAt    time.Time  `json:"booted_at,omitzero"`
	Agent       *agentRow  `json:"agent,omitempty"`
	Content     ingot.File `json:"content,omitzero"`

	Kexec ingot.Kexec `json:"kexec,omitempty"`
}

type agentRow struct {
	Token    string    `json:"token,omitempty"`
	OnMedium bool      `json:"on_medium,omitempty"`
	URL      string    `json:"url,omitempty"`
	CA       string    `json:"ca,omitempty"`
	Version  string    `json:"version,omitempty"`
	HeardAt  time.Time `json:"heard_at,omitzero"`
	Done     int64     `json:"done,omitempty"`
}

type targetRow struct {
	Address  string `json:"address"`
	Port     int    `json:"port"`
	IQN      string `json:"iqn"`
	LUN      int    `json:"lun"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

func (a attempt) Value() (driver.Value, error) {
	v := *a.a
	if v == nil {
		return nil, nil
	}
	row := attemptRow{ID: v.ID, Key: v.Key.Reveal(), Kernel: v.Kernel, Ramdisk: v.Ramdisk, ISO: v.ISO,
		Completed: v.Completed, Written: v.Written, NeedsLoader: v.NeedsLoader,
		Boots: v.Boots, BootedAt: v.BootedAt, Content: v.Content,
		Kexec: v.Kexec}
	if g := v.Agent; g != nil {
		row.Agent = &agentRow{Token: g.Token.Reveal(), OnMedium: g.OnMedium, URL: g.URL, CA: g.CA,
			Version: g.Version, HeardAt: g.HeardAt, Done: g.Done}
	}
	if t := v.Target; t != nil {
		row.Target = &targetRow{Address: t.Address, Port: t.Port, IQN: t.IQN, LUN: t.LUN,
			Username: t.Username, Password: t.Password.Reveal()}
	}
	text, err := json.Marshal(row)
	if err != nil {
		return nil, fmt.Errorf("encode attempt %s: %w", v.ID, err)
	}
	return string(text), nil
}

func (a attempt) Scan(src any) error {
	var text sql.NullString
	if err := text.Scan(src); err != nil {
		return err
	}
	*a.a = nil
	if !text.Valid {
		return nil
	}
	var row attemptRow
	if err := json.Unmarshal([]byte(text.String), &row); err != nil {
		return fmt.Errorf("decode attempt: %w", err)
	}
	v := &ingot.Attempt{ID: row.ID, Key: ingot.Secret(row.Key), Kernel: row.Kernel,
		Ramdisk: row.Ramdisk, ISO: row.ISO, Completed: row.Completed, Written: row.Written,
		NeedsLoader: row.NeedsLoader, Boots: row.Boots, BootedAt: row.BootedAt,
		Content: row.Content, Kexec: row.Kexec}
	if g := row.Agent; g != nil {
		v.Agent = &ingot.Agent{Token: ingot.Secret(g.Token), OnMedium: g.OnMedium, URL: g.URL, CA: g.CA,
			Version: g.Version, HeardAt: g.HeardAt, Done: g.Done}
	}
	if t := row.Target; t != nil {
		v.Target = &ingot.ISCSITarget{Address: t.Address, Port: t.Port, IQN: t.IQN, LUN: t.LUN,
			Username: t.Username, Password: ingot.Secret(t.Password)}
	}
	*a.a = v
	return nil
}
