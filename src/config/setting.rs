//! The definition of a setting: one constant gives its flag, its environment variable, its key in the
//! file, and its parser. The value of a setting is looked up by its constant.

use super::value::Expected;

/// Parses a value. The error says what was expected.
pub(super) type Parse<T> = fn(&str) -> Result<T, Expected>;

/// The part of a setting that does not depend on the type of its value.
#[derive(Debug)]
pub(super) struct Key {
    /// The flag without its dashes, and the key in the file.
    pub(super) name: &'static str,
    /// The environment variable.
    pub(super) variable: &'static str,
    /// The name of the value in `--help`.
    pub(super) value: &'static str,
    pub(super) default: Option<&'static str>,
    pub(super) help: &'static str,
    /// Whether error messages must not contain the value.
    pub(super) hidden: bool,
    /// The setting for a file that contains the value, if there is one.
    pub(super) file: Option<&'static Self>,
    /// For a switch, whose flag takes no value: the flag for `false`, and its help.
    pub(super) negation: Option<(&'static str, &'static str)>,
}

/// A setting with a default.
pub(super) struct Setting<T: 'static> {
    pub(super) key: Key,
    pub(super) parse: Parse<T>,
}

/// A setting without a default.
pub(super) struct Optional<T: 'static> {
    pub(super) key: Key,
    pub(super) parse: Parse<T>,
}

/// The path of a file that contains the value of another setting. Only the other setting is looked up.
pub(super) struct SecretFile {
    pub(super) key: Key,
}

pub(super) const fn setting<T>(
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    default: &'static str,
    parse: Parse<T>,
    help: &'static str,
) -> Setting<T> {
    Setting { key: Key { default: Some(default), ..key(name, variable, value, help) }, parse }
}

pub(super) const fn optional<T>(
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    parse: Parse<T>,
    help: &'static str,
) -> Optional<T> {
    Optional { key: key(name, variable, value, help), parse }
}

pub(super) const fn secret_file(
    name: &'static str,
    variable: &'static str,
    help: &'static str,
) -> SecretFile {
    SecretFile { key: key(name, variable, "FILE", help) }
}

const fn key(
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    help: &'static str,
) -> Key {
    Key { name, variable, value, default: None, help, hidden: false, file: None, negation: None }
}

impl<T> Setting<T> {
    /// Makes the flag a switch without a value, with another flag for `false`.
    pub(super) const fn or_not(mut self, flag: &'static str, help: &'static str) -> Self {
        self.key.negation = Some((flag, help));
        self
    }
}

impl<T> Optional<T> {
    /// Keeps the value out of error messages.
    pub(super) const fn hidden(mut self) -> Self {
        self.key.hidden = true;
        self
    }

    /// Keeps the value out of error messages, and accepts it from a file.
    pub(super) const fn secret(mut self, file: &'static SecretFile) -> Self {
        self.key.file = Some(&file.key);
        self.hidden()
    }
}

/// Declares constants and the list of their keys, so that the list is complete.
macro_rules! listed {
    ($list:ident: $(const $name:ident: $type:ty = $value:expr;)*) => {
        $(pub(in crate::config) const $name: $type = $value;)*

        /// The keys of all settings, in the order of `--help`.
        pub(in crate::config) const $list: &[&$crate::config::setting::Key] = &[$(&$name.key),*];
    };
}
pub(super) use listed;
