//! Checks GraphQL documents and their variables against the schema, and cuts answers down to what was asked for.

use std::collections::{BTreeMap, BTreeSet};

use graphql_parser::{
    query::{Definition, Document, Field, OperationDefinition, Selection, SelectionSet, Value as Literal},
    schema::{Definition as SchemaDefinition, InputValue, Type, TypeDefinition},
};
use serde_json::{Map, Value, json};

const SCHEMA: &str = include_str!("schema.graphql");

/// The schema, by name of type.
pub struct Schema {
    types: BTreeMap<String, TypeDefinition<'static, String>>,
}

/// A document that is sound, ready to be answered.
pub struct Operation {
    /// The field at the top: `upsertBucket`.
    pub field: String,
    /// Its arguments, with the variables put in.
    pub arguments: Map<String, Value>,
    set: SelectionSet<'static, String>,
    fragments: BTreeMap<String, SelectionSet<'static, String>>,
}

impl Schema {
    pub fn read() -> Schema {
        let schema =
            graphql_parser::parse_schema::<String>(SCHEMA).expect("the schema is sound").into_static();
        let types = schema.definitions.into_iter().filter_map(|definition| match definition {
            SchemaDefinition::TypeDefinition(found) => Some((type_name(&found).to_owned(), found)),
            _ => None,
        });
        Schema { types: types.collect() }
    }

    /// Checks a request's body: `query`, `variables` and `operationName`.
    pub fn check(&self, body: &Value) -> Result<Operation, String> {
        let query = body["query"].as_str().ok_or("the body has no query")?;
        let document: Document<'static, String> =
            graphql_parser::parse_query::<String>(query).map_err(|error| error.to_string())?.into_static();
        let empty = Map::new();
        let variables = body["variables"].as_object().unwrap_or(&empty);
        let mut fragments = BTreeMap::new();
        let mut operations = Vec::new();
        for definition in document.definitions {
            match definition {
                Definition::Operation(operation) => operations.push(operation),
                Definition::Fragment(fragment) => {
                    fragments.insert(fragment.name, fragment.selection_set);
                }
            }
        }
        let [operation] = <[_; 1]>::try_from(operations).map_err(|_| "not exactly one operation")?;
        let (root, name, declared, set) = match operation {
            OperationDefinition::Query(query) => {
                ("Query", query.name, query.variable_definitions, query.selection_set)
            }
            OperationDefinition::Mutation(mutation) => {
                ("Mutation", mutation.name, mutation.variable_definitions, mutation.selection_set)
            }
            _ => return Err("neither a named query nor a mutation".into()),
        };
        if let Some(wanted) = body["operationName"].as_str()
            && name.as_deref() != Some(wanted)
        {
            return Err(format!("operationName is {wanted}, but the document's is {name:?}"));
        }
        let types: BTreeMap<_, _> = declared.iter().map(|v| (v.name.clone(), v.var_type.clone())).collect();
        for (name, of) in &types {
            let given = variables.get(name).unwrap_or(&Value::Null);
            self.fits(given, of).map_err(|why| format!("variable ${name}: {why}"))?;
        }
        if let Some(unknown) = variables.keys().find(|name| !types.contains_key(*name)) {
            return Err(format!("variable ${unknown} is not declared"));
        }
        let mut walk = Walk { schema: self, fragments: &fragments, types: &types, used: BTreeSet::new() };
        walk.set(root, &set)?;
        if let Some(unused) = types.keys().find(|name| !walk.used.contains(*name)) {
            return Err(format!("variable ${unused} is not used"));
        }
        let [Selection::Field(top)] = set.items.as_slice() else {
            return Err("not exactly one field at the top".into());
        };
        let arguments =
            top.arguments.iter().map(|(name, value)| (name.clone(), filled(value, variables))).collect();
        Ok(Operation { field: top.name.clone(), arguments, set, fragments })
    }

    /// Whether a JSON value is of a type.
    fn fits(&self, value: &Value, of: &Type<'static, String>) -> Result<(), String> {
        let named = match of {
            Type::NonNullType(inner) if value.is_null() => return Err(format!("null for {inner}!")),
            Type::NonNullType(inner) => return self.fits(value, inner),
            _ if value.is_null() => return Ok(()),
            Type::ListType(inner) => {
                let items = value.as_array().ok_or_else(|| format!("{value} is no list"))?;
                return items.iter().try_for_each(|item| self.fits(item, inner));
            }
            Type::NamedType(name) => name,
        };
        let right = match (named.as_str(), self.types.get(named)) {
            ("String", _) => value.is_string(),
            ("ID", _) => value.is_string() || value.is_i64(),
            ("Int" | "Int64", _) => value.is_i64(),
            ("Float" | "Duration", _) => value.is_number(),
            ("Boolean", _) => value.is_boolean(),
            ("JSONString", _) => {
                value.as_str().is_some_and(|text| serde_json::from_str::<Value>(&finite(text)).is_ok())
            }
            (_, Some(TypeDefinition::Scalar(_))) => true,
            (_, Some(TypeDefinition::Enum(found))) => {
                found.values.iter().any(|known| Some(known.name.as_str()) == value.as_str())
            }
            (_, Some(TypeDefinition::InputObject(found))) => {
                let given = value.as_object().ok_or_else(|| format!("{value} is no {named}"))?;
                if let Some(bad) = given.keys().find(|key| !found.fields.iter().any(|f| &f.name == *key)) {
                    return Err(format!("{named} has no field {bad}"));
                }
                for field in &found.fields {
                    let value = given.get(&field.name).unwrap_or(&Value::Null);
                    if value.is_null() && field.default_value.is_some() {
                        continue;
                    }
                    self.fits(value, &field.value_type).map_err(|why| format!("{}: {why}", field.name))?;
                }
                true
            }
            _ => return Err(format!("there is no input type {named}")),
        };
        right.then_some(()).ok_or_else(|| format!("{value} is no {named}"))
    }
}

/// One way through a document.
struct Walk<'a> {
    schema: &'a Schema,
    fragments: &'a BTreeMap<String, SelectionSet<'static, String>>,
    types: &'a BTreeMap<String, Type<'static, String>>,
    used: BTreeSet<String>,
}

impl Walk<'_> {
    fn set(&mut self, of: &str, set: &SelectionSet<'static, String>) -> Result<(), String> {
        for selection in &set.items {
            match selection {
                Selection::Field(field) => self.field(of, field)?,
                Selection::FragmentSpread(spread) => {
                    let found = self.fragments.get(&spread.fragment_name);
                    self.set(of, found.ok_or_else(|| format!("no fragment {}", spread.fragment_name))?)?;
                }
                Selection::InlineFragment(inline) => self.set(of, &inline.selection_set)?,
            }
        }
        Ok(())
    }

    fn field(&mut self, of: &str, field: &Field<'static, String>) -> Result<(), String> {
        if field.name == "__typename" {
            return Ok(());
        }
        let known = match self.schema.types.get(of) {
            Some(TypeDefinition::Object(object)) => &object.fields,
            Some(TypeDefinition::Interface(interface)) => &interface.fields,
            _ => return Err(format!("{of} is no type with fields")),
        };
        let name = &field.name;
        let found =
            known.iter().find(|f| &f.name == name).ok_or_else(|| format!("{of} has no field {name}"))?;
        for (given, value) in &field.arguments {
            let known = found.arguments.iter().find(|argument| &argument.name == given);
            let known = known.ok_or_else(|| format!("{of}.{name} has no argument {given}"))?;
            self.literal(value, &known.value_type).map_err(|why| format!("{of}.{name}({given}): {why}"))?;
        }
        if let Some(missing) = found.arguments.iter().find(|argument| {
            needed(argument) && !field.arguments.iter().any(|(given, _)| given == &argument.name)
        }) {
            return Err(format!("{of}.{name} needs {}", missing.name));
        }
        let inner = innermost(&found.field_type);
        let leaf = !matches!(
            self.schema.types.get(inner),
            Some(TypeDefinition::Object(_) | TypeDefinition::Interface(_))
        );
        match (leaf, field.selection_set.items.is_empty()) {
            (true, true) => Ok(()),
            (false, false) => self.set(inner, &field.selection_set),
            (true, false) => Err(format!("{of}.{name} is a {inner} and has no fields")),
            (false, true) => Err(format!("{of}.{name} is a {inner}: say which fields")),
        }
    }

    fn literal(
        &mut self,
        value: &Literal<'static, String>,
        of: &Type<'static, String>,
    ) -> Result<(), String> {
        match (value, of) {
            (Literal::Variable(name), of) => {
                let declared = self.types.get(name).ok_or_else(|| format!("${name} is not declared"))?;
                self.used.insert(name.clone());
                goes_into(declared, of).then_some(()).ok_or_else(|| format!("${name}: {declared} for {of}"))
            }
            (Literal::Null, Type::NonNullType(_)) => Err(format!("null for {of}")),
            (Literal::Null, _) => Ok(()),
            (Literal::List(items), Type::ListType(inner)) => {
                items.iter().try_for_each(|item| self.literal(item, inner))
            }
            (value, Type::NonNullType(inner) | Type::ListType(inner)) => self.literal(value, inner),
            (Literal::Object(given), Type::NamedType(name)) => {
                let Some(TypeDefinition::InputObject(found)) = self.schema.types.get(name) else {
                    return Err(format!("an object for {name}"));
                };
                for (key, value) in given {
                    let known = found.fields.iter().find(|field| &field.name == key);
                    let known = known.ok_or_else(|| format!("{name} has no field {key}"))?;
                    self.literal(value, &known.value_type).map_err(|why| format!("{key}: {why}"))?;
                }
                match found.fields.iter().find(|field| needed(field) && !given.contains_key(&field.name)) {
                    Some(missing) => Err(format!("{name} needs {}", missing.name)),
                    None => Ok(()),
                }
            }
            (value, of) => self.schema.fits(&filled(value, &Map::new()), of),
        }
    }
}

impl Operation {
    /// The answer to send: what was asked for of `answer`, the value of the field at the top.
    pub fn answer(&self, answer: Value) -> Value {
        let Some(Selection::Field(top)) = self.set.items.first() else { return Value::Null };
        json!({"data": {top.alias.as_ref().unwrap_or(&top.name): self.cut(&answer, &top.selection_set)}})
    }

    fn cut(&self, value: &Value, set: &SelectionSet<'static, String>) -> Value {
        match value {
            Value::Array(items) => items.iter().map(|item| self.cut(item, set)).collect(),
            Value::Object(object) if !set.items.is_empty() => {
                let mut out = Map::new();
                self.cut_into(object, set, &mut out);
                Value::Object(out)
            }
            other => other.clone(),
        }
    }

    fn cut_into(
        &self,
        object: &Map<String, Value>,
        set: &SelectionSet<'static, String>,
        out: &mut Map<String, Value>,
    ) {
        for selection in &set.items {
            match selection {
                Selection::Field(field) => {
                    let value = object
                        .get(&field.name)
                        .map_or(Value::Null, |found| self.cut(found, &field.selection_set));
                    out.insert(field.alias.clone().unwrap_or_else(|| field.name.clone()), value);
                }
                Selection::FragmentSpread(spread) => {
                    self.cut_into(object, &self.fragments[&spread.fragment_name], out);
                }
                Selection::InlineFragment(inline) => self.cut_into(object, &inline.selection_set, out),
            }
        }
    }
}

fn needed(argument: &InputValue<'static, String>) -> bool {
    matches!(argument.value_type, Type::NonNullType(_)) && argument.default_value.is_none()
}

/// Whether a variable of type `from` may stand where `to` is wanted.
fn goes_into(from: &Type<'static, String>, to: &Type<'static, String>) -> bool {
    match (from, to) {
        (Type::NonNullType(from), Type::NonNullType(to)) | (Type::ListType(from), Type::ListType(to)) => {
            goes_into(from, to)
        }
        (_, Type::NonNullType(_)) => false,
        (Type::NonNullType(from), to) => goes_into(from, to),
        (Type::NamedType(from), Type::NamedType(to)) => from == to,
        _ => false,
    }
}

fn innermost<'a>(of: &'a Type<'static, String>) -> &'a str {
    match of {
        Type::NamedType(name) => name,
        Type::ListType(inner) | Type::NonNullType(inner) => innermost(inner),
    }
}

fn filled(value: &Literal<'static, String>, variables: &Map<String, Value>) -> Value {
    match value {
        Literal::Variable(name) => variables.get(name).cloned().unwrap_or(Value::Null),
        Literal::Int(number) => number.as_i64().into(),
        Literal::Float(number) => (*number).into(),
        Literal::String(text) => text.as_str().into(),
        Literal::Boolean(value) => (*value).into(),
        Literal::Null => Value::Null,
        Literal::Enum(name) => name.as_str().into(),
        Literal::List(items) => items.iter().map(|item| filled(item, variables)).collect(),
        Literal::Object(object) => {
            object.iter().map(|(key, value)| (key.clone(), filled(value, variables))).collect()
        }
    }
}

fn type_name<'a>(found: &'a TypeDefinition<'static, String>) -> &'a str {
    match found {
        TypeDefinition::Scalar(of) => &of.name,
        TypeDefinition::Object(of) => &of.name,
        TypeDefinition::Interface(of) => &of.name,
        TypeDefinition::Union(of) => &of.name,
        TypeDefinition::Enum(of) => &of.name,
        TypeDefinition::InputObject(of) => &of.name,
    }
}

/// JSON as W&B's clients write it, made strict: bare `NaN`, `Infinity` and `-Infinity` become null.
pub fn finite(text: &str) -> String {
    if !text.contains("NaN") && !text.contains("Infinity") {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(c) = rest.chars().next() {
        let token = ["NaN", "-Infinity", "Infinity"].into_iter().find(|token| rest.starts_with(token));
        let taken = match (quoted, token) {
            (false, Some(token)) => {
                out.push_str("null");
                token.len()
            }
            (true, _) if c == '\\' => {
                let end = rest.char_indices().nth(2).map_or(rest.len(), |(at, _)| at);
                out.push_str(&rest[..end]);
                end
            }
            _ => {
                quoted ^= c == '"';
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}
