package ipxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// command executes one command.
func (s *script) command(ctx context.Context, words []string) error {
	if len(words) == 0 {
		return nil
	}
	if s.commands++; s.commands > maxCommands {
		return &errEnd{End{Verb: Failed, Err: errors.New("the script goes round in circles")}}
	}
	name, rest := words[0], words[1:]
	options, args, err := parseOptions(name, rest)
	if err != nil {
		return err
	}
	switch name {
	case "echo":
		s.host.Echo(strings.Join(args, " "))
		return nil
	case "set":
		if len(args) == 0 {
			return errUsage
		}
		key, _, _ := strings.Cut(args[0], ":")
		s.settings[key] = strings.Join(args[1:], " ")
		return nil
	case "clear":
		if len(args) != 1 {
			return errUsage
		}
		delete(s.settings, args[0])
		return nil
	case "isset":
		if len(args) == 0 {
			return errors.New("not set")
		}
		return nil
	case "iseq":
		if len(args) == 1 {
			args = append(args, "")
		}
		if len(args) != 2 || args[0] != args[1] {
			return errors.New("not equal")
		}
		return nil
	case "inc":
		return s.inc(args)
	case "goto":
		return s.jump(args)
	case "sleep":
		if len(args) != 1 {
			return errUsage
		}
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 0 {
			return errUsage
		}
		return s.host.Sleep(ctx, time.Duration(n)*time.Second)
	case "imgfree":
		s.images, s.kernel = nil, nil
		return nil
	case "kernel", "imgselect":
		image, err := s.fetch(ctx, args, options, io.Discard)
		if err == nil {
			s.kernel = &image
		}
		return err
	case "initrd", "module", "imgfetch":
		image, err := s.fetch(ctx, args, options, io.Discard)
		if err == nil {
			s.images = append(s.images, image)
		}
		return err
	case "boot", "imgexec":
		if s.kernel == nil {
			return errors.New("no kernel is loaded")
		}
		return &errEnd{End{Verb: Boot, Kernel: *s.kernel, Initrds: s.images}}
	case "chain":
		return s.chain(ctx, args, options)
	case "sanboot":
		if v, _ := s.host.Setting("platform"); v != "pcbios" {
			return errors.New("no such device (https://ipxe.org/2c222087)")
		}
		return &errEnd{End{Verb: SANBoot, Drive: options["--drive"]}}
	case "exit":
		if len(args) == 1 && args[0] != "0" {
			return &errEnd{End{Verb: Failed, Err: fmt.Errorf("exit %s", args[0])}}
		}
		return &errEnd{End{Verb: Exit}}
	case "poweroff":
		return &errEnd{End{Verb: PowerOff}}
	case "reboot":
		return &errEnd{End{Verb: Reboot}}
	case "shell", "prompt":
		return &errEnd{End{Verb: Prompt}}
	}
	return fmt.Errorf("%s: command not found", name)
}

var errUsage = errors.New("wrong arguments")

// takesValue are the options that are followed by a value.
var takesValue = map[string]bool{"--timeout": true, "--name": true, "-t": true, "-n": true,
	"--drive": true, "-d": true, "--filename": true, "-f": true}

// parseOptions splits the options of a command, which stand before its arguments.
func parseOptions(command string, words []string) (map[string]string, []string, error) {
	options := map[string]string{}
	if command == "echo" || command == "set" || command == "iseq" || command == "isset" {
		return options, words, nil
	}
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		name, value, given := strings.Cut(words[0], "=")
		words = words[1:]
		if takesValue[name] && !given {
			if len(words) == 0 {
				return nil, nil, fmt.Errorf("option %s needs a value", name)
			}
			value, words = words[0], words[1:]
		}
		options[name] = value
	}
	return options, words, nil
}

// inc adds to a number.
func (s *script) inc(args []string) error {
	if len(args) == 0 || len(args) > 2 {
		return errUsage
	}
	step := 1
	if len(args) == 2 {
		var err error
		if step, err = strconv.Atoi(args[1]); err != nil {
			return errUsage
		}
	}
	key, _, _ := strings.Cut(args[0], ":")
	now, err := strconv.Atoi(s.setting(key))
	if err != nil {
		now = 0
	}
	s.settings[key] = strconv.Itoa(now + step)
	return nil
}

// jump goes to a label, which is looked for from the top of the script.
func (s *script) jump(args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	for i, line := range s.lines {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == ":"+args[0] {
			s.at = i
			return nil
		}
	}
	return &errEnd{End{Verb: Failed, Err: fmt.Errorf("label %s is not there", args[0])}}
}

// fetch gets an image.
func (s *script) fetch(ctx context.Context, args []string, options map[string]string,
	w io.Writer) (Image, error) {
	if len(args) == 0 {
		return Image{}, errUsage
	}
	var idle time.Duration
	if ms, err := strconv.Atoi(options["--timeout"]); err == nil {
		idle = time.Duration(ms) * time.Millisecond
	}
	location, _, _ := strings.Cut(args[0], "?")
	image := Image{Name: path.Base(location), URL: s.absolute(args[0]), Args: strings.Join(args[1:], " ")}
	if name := options["--name"]; name != "" {
		image.Name = name
	}
	return image, s.host.Fetch(ctx, image.URL, idle, w)
}

// absolute is a URL that a script has, as seen from where the script came from.
func (s *script) absolute(text string) string {
	base, err := url.Parse(s.url)
	if err != nil {
		return text
	}
	u, err := base.Parse(text)
	if err != nil {
		return text
	}
	return u.String()
}

// chain runs a script from elsewhere. With --replace nothing comes after it.
func (s *script) chain(ctx context.Context, args []string, options map[string]string) error {
	if s.depth >= maxDepth {
		return errors.New("too many scripts within scripts")
	}
	var text limited
	image, err := s.fetch(ctx, args, options, &text)
	if err != nil {
		return err
	}
	_, replace := options["--replace"]
	depth := s.depth + 1
	if replace {
		depth = s.depth
	}
	end := s.script(ctx, source{text.b.String(), image.URL}, depth)
	if replace || end.Verb != Exit && end.Verb != Failed {
		return &errEnd{end}
	}
	return end.Err
}

// limited is a buffer that refuses what no script can be.
type limited struct{ b strings.Builder }

func (l *limited) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > maxScript {
		return 0, errors.New("too long for a script")
	}
	return l.b.Write(p)
}
